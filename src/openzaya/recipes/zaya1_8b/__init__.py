"""The paper's supervised phases at full size: two of pretraining, midtraining, SFT.

Read them in order: `s1_pretrain`, `s2_midtrain`, `s3_sft`; `recipe` joins them. They describe and
can be planned (`openzaya plan zaya1_8b`). Nobody has run them: the data are not published, and
they need a cluster (`openzaya.train.distributed`). The RL cascade has no file yet.
"""
