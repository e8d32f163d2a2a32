"""The command line: one verb, one file; nothing heavy is imported before the verb is known."""
