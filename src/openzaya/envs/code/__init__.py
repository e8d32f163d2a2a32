"""Programming problems, the judge that runs programs in the sandbox, loaders of data sets."""
