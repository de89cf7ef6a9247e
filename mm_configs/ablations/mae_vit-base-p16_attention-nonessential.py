"""MAE, ViT-B/16, masks guided by attention: nonessential (Fig. 1).

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p16_attention-nonessential.py 16
Needs:  a part store at 14x14 made with --source heads, whose scores are the class token's attention
Paper:  Fig. 1: MST (Li et al. 2021), random patches, never the most attended.
Ours:   the attention is that of the frozen part encoder, not of a teacher trained with the
        model; the target is MAE's.
Status: not run at full length here.
"""
_base_ = ['mae_vit-base-p16_attention-high.py']

model = dict(masking=dict(mode='nonessential'))
recipe = dict(id='mae_p16_attention_nonessential', method='MST masks')
