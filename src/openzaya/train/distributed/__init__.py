"""Training over many processes: `python -m openzaya.train.distributed` under torchrun.

Read `inputs` (all ranks read the same), `mesh` (who works with whom), `share` (which rank trains
which windows), `context` (documents over several ranks), `experts` (tokens travel to experts),
`shard` (FSDP2), `optim` (Muon on shards), `cluster` (all of it behind `train.parallel.Parallel`),
`saver` (checkpoints).

One process never imports this package.
"""
