"""SemMAE, ViT-B/8, the foreground ranked by the part maps, as Sec. 4.2 says. Paper Table 1: 68.7.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p8_maps-foreground.py 16
Needs:  a part store at 28x28 that ranks the patches by the maps:
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train \
            --out data/parts/imagenet_train_28_maps --grid 28 \
            --cfg-options model.parts.foreground=parts
        Its probe needs the same of val: linprobe_vit-base-p8_maps-foreground.py
Paper:  "we leverage the learned attentions maps to remove 3/4 patches that are most likely to be
        the background" (Sec. 4.2). It does not say how maps give a ranking.
Ours:   the maximum of the part maps, each normalised over positions
        (functional.parts.foreground_scores). The rest is as in semmae_pretrain.py, which ranks by
        tokens unlike those at the border, the better ranking at toy scale.
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

train_dataloader = dict(dataset=dict(dataset=dict(
    part_store=f'data/parts/imagenet_train_{_base_.grid}_maps', foreground='parts')))

recipe = dict(id='semmae_p8_maps', method='SemMAE, foreground by part maps',
              parts=dict(foreground='parts'))
