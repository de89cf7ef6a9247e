"""The linear head of dense probing (DINOv3)."""
import torch

from semmae.models import LinearSegHead

LOSS = dict(type='mmseg.CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)


def head(**kwargs):
    torch.manual_seed(0)
    return LinearSegHead(in_channels=4, num_classes=3, norm_cfg=dict(type='BN'), loss_decode=LOSS,
                         **kwargs)


def test_the_head_is_a_batch_norm_and_one_matrix_for_every_patch():
    linear, x = head(dropout_ratio=0.).train(), 5 + 3 * torch.randn(2, 4, 6, 6)
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = linear.conv_seg.weight[..., 0, 0], linear.conv_seg.bias
    expected = torch.einsum('cd,bdhw->bchw', weight, (x - mean) / (var + 1e-5).sqrt())
    torch.testing.assert_close(linear([x]), expected + bias[:, None, None], rtol=1e-4, atol=1e-5)
    assert {n for n, _ in linear.named_parameters()} == {
        'norm.weight', 'norm.bias', 'conv_seg.weight', 'conv_seg.bias'}


def test_dropout_comes_before_the_norm_and_drops_whole_channels():
    linear = head(dropout_ratio=.5).train()
    seen = []
    linear.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    linear([torch.ones(2, 4, 6, 6)])
    channels = seen[0].flatten(2)
    assert (channels == channels[..., :1]).all() and set(channels.unique().tolist()) == {0., 2.}
