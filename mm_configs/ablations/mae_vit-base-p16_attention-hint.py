"""MAE, ViT-B/16, masks guided by attention: hint (Fig. 1).

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p16_attention-hint.py 16
Needs:  a part store at 14x14 made with --source heads, whose scores are the class token's attention
Paper:  Fig. 1: AttMask (Kakogeorgiou et al. 2022), the most attended except a few hints.
Ours:   the attention is that of the frozen part encoder, not of a teacher trained with the
        model; the target is MAE's.
Status: not run at full length here.
"""
_base_ = ['mae_vit-base-p16_attention-high.py']

model = dict(masking=dict(mode='hint'))
recipe = dict(id='mae_p16_attention_hint', method='AttMask-Hint masks')
