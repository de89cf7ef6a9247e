"""Part learning with no diversity loss (Eq. 6): lambda 0.

Run:    python tools/train.py mm_configs/ablations/parts_vit-small_nodiversity.py
Needs:  as mm_configs/semmae_parts.py
Paper:  not reported.
Status: not run at full length here; at toy scale in benchmarks/results/parts.
"""
_base_ = ['../semmae_parts.py']

model = dict(diversity_weight=0.)
recipe = dict(id='parts_nodiversity', method='part learning, no diversity loss')
