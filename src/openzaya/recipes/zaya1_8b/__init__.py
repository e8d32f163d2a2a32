"""The paper's supervised phases at full size: two of pretraining, midtraining, SFT.

Read them in order: `s1_pretrain`, `s2_midtrain`, `s3_sft`; `recipe` joins them. They describe and
can be planned (`openzaya plan zaya1_8b`). Nothing here runs yet: the data are not published, and
`train.loop` trains in one process, which these phases outgrow. The RL cascade has no file yet.
"""
