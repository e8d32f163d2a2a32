"""The recipe in small, minutes on two CPU cores: pretrain, midtrain, SFT, one RL stage, evaluation.

Read the stages in order: `s1_pretrain`, `s2_midtrain`, `s3_sft`, `s4_rl`; `speedrun` runs them.
"""
