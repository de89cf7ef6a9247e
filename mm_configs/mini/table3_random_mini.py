"""Table 3 at mini size, the row of random masks, among the same 32 of 64 patches.

Run:    python tools/train.py mm_configs/mini/table3_random_mini.py
        All rows: python tools/run_suite.py table3_true --seeds 0 1 2 3 4
Needs:  as table3_mini.py
"""
_base_ = ['table3_mini.py']

model = dict(masking=dict(_delete_=True, type='semmae.RandomMasking', mask_ratio=0.75))
recipe = dict(id='mae_p8_fg', method='MAE, background dropped')
