"""Part learning with Eq. 5 as a sum over colours: lambda has a third of its weight.

Run:    python tools/train.py mm_configs/ablations/parts_vit-small_sum_colours.py
Needs:  as mm_configs/semmae_parts.py
Paper:  lambda 0.03; Eq. 5 squares the difference of two colours and does not say how that becomes
        a number. This is one reading; semmae_parts.py has the other, the mean over colours.
Status: not run at full length here.
"""
_base_ = ['../semmae_parts.py']

model = dict(over_colours='sum')
recipe = dict(id='parts_sum_colours', method='part learning, sum over colours')
