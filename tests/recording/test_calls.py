"""Every form of attention is seen once, with the queries, keys, values, masks and weights that the network used."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import perturbed
from vitscope.recording import AttentionCall, AttentionCalls, go_on
from vitscope.trace.guard import left_as_found

B, H, N, D = 2, 3, 5, 4


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


class Attend(nn.Module):
    """Projects tokens (b n H * D) to queries, keys and values (b h n d), and hands them to a function."""

    def __init__(self, attend):
        super().__init__()
        self.qkv = nn.Linear(H * D, 3 * H * D)
        self.out = nn.Linear(H * D, H * D)
        self.mix = nn.Linear(H, H)
        self.conv = nn.Conv2d(H, H, 1)
        self.drop = nn.Dropout(0.5)
        self.attend = attend

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4)
        result = self.attend(self, q, k, v)
        return self.out(result.transpose(1, 2).flatten(2))


def made(attend):
    torch.manual_seed(0)
    return perturbed(Attend(attend)).double()


def calls_of(model, *inputs, answer=None):
    """The calls of a pass, their outputs, and what the model returns."""
    seen = []

    def watch(number, call, run):
        output = run(call)
        seen.append((call, output))
        assert number == len(seen) - 1
        return output

    with left_as_found(model), AttentionCalls(model, answer or watch) as mode:
        result = model(*inputs)
    assert mode.count == len(seen) or answer
    return seen, result


def weights_of(call):
    """The whole matrix of a call, from what it is said to consist of."""
    if call.probabilities is not None:
        return call.probabilities
    scores = call.query @ call.key.transpose(-2, -1) * call.scale
    if call.causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), float("-inf"))
    if call.mask is not None:
        scores = scores.masked_fill(~call.mask, float("-inf")) if call.mask.dtype == torch.bool else scores + call.mask
    return scores.softmax(dim=-1)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


SCALE = D**-0.5
SEEN = torch.ones(N, N, dtype=torch.bool).tril(2)
ADDED = drawn(1, H, N, N, seed=3)


def written(q, k, mask=None):
    z = q @ k.transpose(-2, -1) * SCALE
    return (z if mask is None else z + mask).softmax(dim=-1)


def sdpa(_, q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def sdpa_bool_mask(_, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=SEEN)


def sdpa_float_mask(_, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, ADDED, 0.0, False)


def sdpa_causal(_, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)


def sdpa_grouped(_, q, k, v):
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)


def sdpa_one_key_for_all(_, q, k, v):
    return F.scaled_dot_product_attention(q, k[:, :1], v)


def at(_, q, k, v):
    return written(q, k) @ v


def softmax_of_torch(_, q, k, v):
    return torch.matmul(torch.softmax(torch.matmul(q, k.mT) * SCALE, -1), v)


def softmax_of_functional(_, q, k, v):
    return torch.matmul(F.softmax(q @ k.transpose(2, 3) * SCALE, dim=3), other=v)


def masked_with_dropout_and_cast(self, q, k, v):
    z = (q @ k.transpose(-2, -1) * SCALE).masked_fill(~SEEN, float("-inf"))
    return self.drop(z.float().softmax(dim=-1).to(q.dtype)) @ v


def softmax_module(_, q, k, v):
    return nn.Softmax(dim=-1)(q @ k.transpose(-2, -1) * SCALE) @ v


def bmm(_, q, k, v):
    q, k, v = (each.reshape(B * H, N, D) for each in (q, k, v))
    return torch.bmm(F.dropout(torch.bmm(q, k.transpose(1, 2)).mul(SCALE).softmax(-1), 0.5, False), v).view(B, H, N, D)


def baddbmm(_, q, k, v):
    q, k, v = (each.reshape(B * H, N, D) for each in (q, k, v))
    mask = ADDED.expand(B, H, N, N).reshape(B * H, N, N)
    return torch.bmm(torch.baddbmm(mask, q, k.transpose(1, 2), beta=1, alpha=SCALE).softmax(-1), v).view(B, H, N, D)


def reshaped_between(_, q, k, v):
    return torch.bmm(written(q, k).reshape(B * H, N, N), v.reshape(B * H, N, D)).view(B, H, N, D)


def mixed_by_linear(self, q, k, v):
    return self.mix(written(q, k).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v


def mixed_by_convolution(self, q, k, v):
    return self.conv(written(q, k)) @ v


def einsum_letters(_, q, k, v):
    z = torch.einsum("bhid,bhjd->bhij", q, k) * SCALE
    return torch.einsum("bhij,bhjd->bhid", z.softmax(-1), v)


def einsum_other_order(_, q, k, v):
    z = torch.einsum("bhid,bhjd->bijh", q, k) * SCALE
    out = torch.einsum("bnhc,bqnh->bqhc", v.transpose(1, 2), z.softmax(2))
    return out.transpose(1, 2)


def einsum_transposed(_, q, k, v):
    z = torch.einsum("b h q d, b h k d -> b h k q", q, k) * SCALE
    return torch.einsum("bhkq,bhkd->bhqd", z.softmax(-2), v)


def einsum_with_list(_, q, k, v):
    return torch.einsum("bhij,bhjd->bhid", [written(q, k), v])


def turned(_, q, k, v):
    a = written(q, k)
    return (v.transpose(-2, -1) @ a.transpose(-2, -1)).view(B, H, D, N).transpose(-2, -1)


def keys_first(_, q, k, v):
    a = (k @ q.transpose(-2, -1) * SCALE).softmax(dim=-2)
    return (v.transpose(-2, -1) @ a).transpose(-2, -1)


def tensors_to_the_left(_, q, k, v):
    return v.__rmatmul__(written(q, k))


FORMS = [
    sdpa, sdpa_bool_mask, sdpa_float_mask, sdpa_causal, sdpa_grouped, sdpa_one_key_for_all, at, softmax_of_torch,
    softmax_of_functional, masked_with_dropout_and_cast, softmax_module, bmm, baddbmm, reshaped_between,
    mixed_by_linear, mixed_by_convolution, einsum_letters, einsum_other_order, einsum_transposed, einsum_with_list,
    turned, keys_first, tensors_to_the_left,
]  # fmt: skip
WITH_FACTORS = (at, softmax_of_torch, softmax_of_functional, bmm, baddbmm, reshaped_between, softmax_module)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_each_form_is_seen_once_and_is_weights_times_values(form):
    model = made(form)
    x = drawn(B, N, H * D)
    untouched = model(x)
    seen, result = calls_of(model, x)
    close(result, untouched)
    ((call, output),) = seen
    close(weights_of(call) @ call.value, output)
    close(call(), output)
    _, _, v = model.qkv(x).unflatten(-1, (3, H, D)).permute(2, 0, 3, 1, 4)
    if form is not sdpa_grouped:
        assert sorted(call.value.flatten().tolist()) == pytest.approx(sorted(v.flatten().tolist()))
    assert call.queries == N
    assert not call.detached().value.requires_grad


@pytest.mark.parametrize("form", [*WITH_FACTORS], ids=lambda form: form.__name__)
def test_scores_and_their_factors_belong_to_the_weights(form):
    model = made(form)
    ((call, _),), _ = calls_of(model, drawn(B, N, H * D))
    lead = call.scores.shape[:-2]
    bias = ADDED.expand(B, H, N, N).reshape(call.scores.shape) if form is baddbmm else 0
    products = call.query.reshape(*lead, N, D) @ call.key.reshape(*lead, N, D).transpose(-2, -1) * SCALE
    close(products + bias, call.scores)
    close(call.scores.softmax(dim=-1), call.probabilities)


def test_a_fused_call_says_its_scale_mask_and_causality():
    ((call, _),), _ = calls_of(made(sdpa_causal), drawn(B, N, H * D))
    assert (call.scale, call.causal, call.mask) == (0.3, True, None)
    ((call, _),), _ = calls_of(made(sdpa_bool_mask), drawn(B, N, H * D))
    assert call.mask is SEEN
    assert call.scale == pytest.approx(SCALE)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", ["", "attention", "keys", "causal", "bias"])
def test_multihead_attention(need_weights, batch_first, masked):
    torch.manual_seed(0)
    extra = {"add_bias_kv": True} if masked == "bias" else {}
    model = perturbed(nn.MultiheadAttention(12, 3, batch_first=batch_first, dropout=0.1, **extra)).double()
    shape = (B, N, 12) if batch_first else (N, B, 12)
    query, key, value = (drawn(*shape, seed=seed) for seed in range(3))
    more = {}
    if masked == "attention":
        more = {"attn_mask": drawn(N, N)}
    if masked == "keys":
        more = {"key_padding_mask": torch.tensor([[False] * N, [False] * (N - 2) + [True] * 2])}
    if masked == "causal":
        more = {"attn_mask": torch.ones(N, N, dtype=torch.bool).triu(1), "is_causal": True}
    given = {**more, "need_weights": need_weights}
    seen = []

    def answer(number, call, run):
        seen.append((call, run(call)))
        return seen[-1][1]

    wanted, weights = model(query, key, value, **given)
    with left_as_found(model), AttentionCalls(model, answer):
        found, _ = model(query, key, value, **given)
    close(found, wanted)
    ((call, output),) = seen
    lead = (B, 3)
    matrix = weights_of(call).expand(*call.lead, -1, -1).reshape(*lead, N, -1)
    close(matrix @ call.value.reshape(*lead, -1, 4), output.reshape(*lead, N, 4))
    if need_weights:
        close(matrix.mean(dim=1), weights)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_transformer_encoders(norm_first, whole):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False) if whole else layer
    model = perturbed(model).double()
    x = drawn(B, N, 12)
    with torch.enable_grad():
        wanted = model(x.requires_grad_())
    seen, found = calls_of(model, x)
    close(found, wanted)
    assert len(seen) == (2 if whole else 1)
    for call, output in seen:
        close(weights_of(call) @ call.value, output)


def test_a_transformer_encoder_without_gradients():
    """Torch takes a path of its own there, as one operator for the whole layer."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 4, 24, batch_first=True)
    model = perturbed(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)).double()
    x = drawn(B, N, 12)
    with torch.no_grad():
        wanted = model(x)
        seen, found = calls_of(model, x)
    torch.testing.assert_close(found, wanted)
    assert len(seen) == 2


def test_a_transformer_decoder():
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(12, 3, 24, batch_first=True)
    model = perturbed(nn.TransformerDecoder(layer, 2)).double()
    seen, _ = calls_of(model, drawn(B, 4, 12), drawn(B, N, 12))
    assert [(call.queries, call.value.shape[-2]) for call, _ in seen] == [(4, 4), (4, N)] * 2


class Differential(nn.Module):
    """Two attentions, one subtracted from the other (arXiv 2410.05258)."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(12, 36)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        (q1, q2), (k1, k2) = q.chunk(2, dim=-1), k.chunk(2, dim=-1)
        return F.scaled_dot_product_attention(q1, k1, v) - 0.4 * F.scaled_dot_product_attention(q2, k2, v)


def test_differential_attention_is_two_calls():
    seen, _ = calls_of(perturbed(Differential()).double(), drawn(B, N, 12))
    assert len(seen) == 2
    close(seen[0][0].value, seen[1][0].value)
    assert not torch.equal(seen[0][1], seen[1][1])


class Twice(nn.Module):
    """One attention called twice in a pass."""

    def __init__(self, attend=at):
        super().__init__()
        self.attention = made(attend)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.attention(x)


@pytest.mark.parametrize("form", [sdpa, at, bmm], ids=lambda form: form.__name__)
def test_a_module_that_is_called_twice(form):
    model, x = Twice(form), drawn(B, N, 12)
    seen, result = calls_of(model, x)
    assert len(seen) == 2
    close(result, model(x))


@pytest.mark.parametrize("form", [sdpa, softmax_of_torch, at, turned], ids=lambda form: form.__name__)
def test_a_traced_module(form):
    model, x = Twice(form), drawn(B, N, 12)
    traced = torch.fx.symbolic_trace(model)
    seen, result = calls_of(traced, x)
    assert len(seen) == 2
    close(result, model(x))


@pytest.mark.parametrize("form", [sdpa, softmax_of_torch, at, einsum_letters], ids=lambda form: form.__name__)
def test_an_exported_module(form):
    model, x = Twice(form), drawn(B, N, 12)
    exported = torch.export.export(model, (x,)).module()
    seen, result = calls_of(exported, x)
    close(result, model(x))
    assert len(seen) == 2
    for call, output in seen:
        close(weights_of(call) @ call.value, output)


def test_a_compiled_module():
    model, x = Twice(sdpa), drawn(B, N, 12)
    seen, result = calls_of(torch.compile(model, backend="eager"), x)
    assert len(seen) == 2
    close(result, model(x))


def test_an_answer_takes_the_place_of_the_output():
    model, x = Twice(at), drawn(B, N, 12)
    _, found = calls_of(model, x, answer=lambda number, call, run: torch.zeros_like(run(call)))
    alone = model.attention.out(torch.zeros(B, N, 12, dtype=torch.float64))
    close(found, x + 2 * alone)


def test_products_that_are_no_attention_are_left_alone():
    def other(_, q, k, v):
        gate = q.softmax(dim=-1)
        return F.linear(gate * k, torch.eye(D, dtype=q.dtype)) + (gate * v).sum(dim=-1, keepdim=True)

    seen, _ = calls_of(made(other), drawn(B, N, H * D))
    assert seen == []


def test_softmaxes_in_between_do_not_hide_a_call():
    def with_gate(_, q, k, v):
        a = written(q, k)
        gate = v.softmax(dim=-1).sum(dim=-1, keepdim=True)
        return a @ v * gate

    seen, _ = calls_of(made(with_gate), drawn(B, N, H * D))
    assert len(seen) == 1


def test_channel_attention_is_a_call_of_channels():
    def channels(_, q, k, v):
        return v.transpose(-2, -1).transpose(-2, -1) @ (q.transpose(-2, -1) @ k).softmax(dim=-1).transpose(-2, -1)

    seen, _ = calls_of(made(channels), drawn(B, N, H * D))
    assert [call.value.shape[-2] for call, _ in seen] == [D]


def test_weights_get_no_gradient_and_the_model_stays_as_it_was():
    model = Twice(sdpa).train()
    model.attention.qkv.bias.requires_grad_(False)
    flags = [each.requires_grad for each in model.parameters()]
    x = drawn(B, N, 12).requires_grad_()
    with torch.enable_grad():
        _, result = calls_of(model, x)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert bool(gradient.any())
    assert model.training is not False
    assert [each.requires_grad for each in model.parameters()] == flags
    assert all(each.grad is None for each in model.parameters())
    leaves, queue = set(), [result.grad_fn]
    while queue:
        node = queue.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        queue.extend(parent for parent, _ in node.next_functions)
    assert leaves == {id(x)}


def test_a_pass_within_a_hook_of_the_users_is_not_recorded():
    model, inner, x = Twice(sdpa), Twice(at), drawn(B, N, 12)
    found = []

    def hook(module, inputs):
        if not found:
            found.append(None)
            found[0] = calls_of(inner, x)[0]

    model.attention.register_forward_pre_hook(hook)
    seen, _ = calls_of(model, x)
    assert len(seen) == 2
    assert len(found[0]) == 2


def test_two_threads_see_their_own_calls():
    models = [Twice(sdpa), Twice(at)]
    found = {}
    start = threading.Barrier(2)

    def work(index):
        start.wait()
        for _ in range(5):
            found[index] = calls_of(models[index], drawn(B, N + index, 12))[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [call.queries for call, _ in found[0]] == [N, N]
    assert [call.queries for call, _ in found[1]] == [N + 1, N + 1]
    assert found[0][0][0].probabilities is None
    assert found[1][0][0].probabilities is not None


def test_a_call_can_be_built_by_the_signature_of_the_kernel():
    q, k, v = (drawn(B, H, N, D, seed=seed) for seed in range(3))
    call = AttentionCall.of_kernel(q, k[:, :1], v[:, :1], scale=0.2, enable_gqa=True)
    assert call.lead == (B, H)
    close(call(), F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], scale=0.2, enable_gqa=True))
    assert math.isclose(call.scale, 0.2)
    close(go_on(0, call, AttentionCall.__call__), call())
