"""Table 3 at mini size, the SemMAE row with the foreground ranked by the part maps (Sec. 4.2).

Run:    python tools/train.py mm_configs/mini/table3_maps_mini.py
        All rows: python tools/run_suite.py table3_learned --seeds 0 1 2 3 4
Needs:  as table3_mini.py, with a part store of learned parts that was made with
        --cfg-options model.parts.foreground=parts
"""
_base_ = ['table3_mini.py']

train_dataloader = dict(dataset=dict(dataset=dict(foreground='parts')))
recipe = dict(id='semmae_p8_maps', method='SemMAE, foreground by part maps',
              parts=dict(foreground='parts'))
