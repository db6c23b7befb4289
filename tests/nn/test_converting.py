import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.codec import container
from moeash.core.codebook import KeptTensor, SharedWeights, TiedTensor
from moeash.errors import CheckpointError, ContainerError, InputError
from moeash.networks.loading.sources import load_network
from moeash.nn import compress_, memory
from moeash.nn.packing import Packing
from tests.marks import few_quick, slow
from tests.nn.networks import TOKENS, Language, drawn, language, written


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of one network by the k they were made with."""
    folder = tmp_path_factory.mktemp("files")
    return {k: written(language(), folder / f"{k}.moeash", k) for k in (8, 40, 1000)}


@pytest.fixture
def dense(files):
    return moeash.load(files[40], into=language(1))


@pytest.fixture
def small(files):
    module = language(2)
    compress_(module, files[40])
    return module


MODES = (torch.enable_grad, torch.no_grad, torch.inference_mode)


@pytest.mark.parametrize("mode", few_quick(MODES, torch.no_grad))
@pytest.mark.parametrize("resident_bytes", [0, 10_000, 10**9])
@pytest.mark.parametrize(
    ("k", "bits", "stored"), [(8, None, 4), (8, 6, 6), (40, 6, 6), (40, None, 8), (1000, None, 16)]
)
def test_outputs_are_those_of_the_dense_network_to_the_bit(
    files, k, bits, stored, resident_bytes, mode
):
    dense, small = moeash.load(files[k], into=language(1)), language(2)
    report = compress_(small, files[k], bits=bits, resident_bytes=resident_bytes)
    assert set(report.bits.values()) == {stored} and not report.dense
    with mode():
        for _ in range(2):
            assert torch.equal(small(TOKENS), dense(TOKENS))
    assert memory(small).held_bytes <= resident_bytes


@pytest.mark.parametrize("network", ["digits-cnn", "lenet5", slow("resnet20")])
def test_real_architectures_give_the_dense_outputs(tmp_path, network):
    source = load_network(network, weights="random").eval()
    path = written(source, tmp_path / "x.moeash", 30)
    dense = moeash.load(path, into=copy.deepcopy(source))
    compress_(source, path)
    shape = {"digits-cnn": (1, 8, 8), "lenet5": (1, 28, 28), "resnet20": (3, 32, 32)}[network]
    images = torch.randn(4, *shape)
    with torch.inference_mode():
        assert torch.equal(source(images), dense(images))


KINDS = {
    "linear": (nn.Linear(6, 5), (3, 6)),
    "bilinear": (nn.Bilinear(6, 6, 5), None),
    "conv1d": (nn.Conv1d(4, 6, 3, groups=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2), (2, 4, 9, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3), (2, 4, 9)),
    "transposed2d": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
    "transposed3d": (nn.ConvTranspose3d(2, 3, 2), (2, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_is_indices(tmp_path, kind):
    layer, shape = copy.deepcopy(KINDS[kind])
    path = written(layer, tmp_path / "x.moeash", 9)
    dense = moeash.load(path, into=copy.deepcopy(layer))
    assert list(compress_(layer.eval(), path).bits) == ["weight"]
    inputs = (torch.randn(3, 6), torch.randn(3, 6)) if shape is None else (torch.randn(shape),)
    assert torch.equal(layer(*inputs), dense(*inputs))
    assert isinstance(layer, type(dense)) and list(dict(layer.named_parameters())) == ["bias"]


def test_an_embedding_decodes_the_rows_that_are_looked_up(files, small, monkeypatch):
    looked_up = small.embedding._packings["weight"]
    monkeypatch.setattr(type(looked_up), "weight", None)  # decoding all of it would fail
    assert small.embedding(TOKENS).shape == (3, 7, 32)
    assert small.embedding(torch.empty(0, dtype=torch.int32)).shape == (0, 32)
    with pytest.raises((IndexError, RuntimeError), match="out of range"):
        small.embedding(torch.tensor([50]))


@pytest.mark.parametrize(("n_entries", "bits"), [(16, 4), (64, 6), (256, 8), (1000, 16)])
def test_weights_at_rest_take_their_bits_and_one_codebook(n_entries, bits):
    small = nn.Sequential(nn.Linear(501, 401, bias=False), nn.Linear(401, 301, bias=False)).eval()
    compress_(small, drawn({"0.weight": (401, 501), "1.weight": (301, 401)}, n_entries), bits=bits)
    taken = memory(small)
    assert taken.dense_bytes == 4 * (401 * 501 + 301 * 401)
    assert taken.codebook_bytes == 4 * n_entries and taken.other_bytes == 0
    assert taken.at_rest_bytes <= taken.dense_bytes * (bits / 32 + 0.02)
    assert sum(b.nbytes for b in small.buffers()) == taken.at_rest_bytes
    assert not list(small.parameters())


def test_tied_weights_stay_one_tensor_of_indices(small, files):
    for module in (small, copy.deepcopy(small), copy.deepcopy(small).to(torch.float64)):
        assert module.head.weight_indices is module.embedding.weight_indices
        assert torch.equal(module.head.weight, module.embedding.weight)
    assert next(iter(compress_(language(), files[8]).bits)) == "embedding.weight"


def test_the_compact_state_is_saved_and_loaded(files, small):
    buffer = io.BytesIO()
    torch.save(small.state_dict(), buffer)
    assert len(buffer.getvalue()) < sum(p.nbytes for p in language().parameters()) / 2
    buffer.seek(0)
    other = language(3)
    compress_(other, files[40])
    for name, tensor in other.state_dict().items():
        tensor.zero_() if name.endswith("_indices") else tensor.fill_(1)
    other.load_state_dict(torch.load(buffer))
    assert torch.equal(other(TOKENS), small(TOKENS))
    with pytest.raises(RuntimeError, match="size mismatch"):
        compress_(foreign := language(), files[8])
        foreign.load_state_dict(small.state_dict())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same_and_share_nothing_with_the_original(files, again):
    small = language()
    compress_(small, files[40], resident_bytes=10**6)
    expected = small(TOKENS)
    copied = again(small)
    assert type(copied.head) is type(small.head) and memory(copied).held_bytes == 0
    assert memory(copied).at_rest_bytes == memory(small).at_rest_bytes
    for buffer in small.buffers():
        buffer.zero_()
    assert torch.equal(copied(TOKENS), expected)


def test_hooks_and_the_place_in_the_network_stay(files):
    module, seen = language(), []
    head = module.head
    head.register_forward_hook(lambda *_: seen.append("hook"))
    compress_(module, files[40])
    module(TOKENS)
    assert module.head is head and seen == ["hook"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_moves_the_codebook_and_leaves_the_indices(small, dense, dtype):
    before = {n: b.clone() for n, b in small.named_buffers() if n.endswith("_indices")}
    small.to(dtype), dense.to(dtype)
    assert torch.equal(small(TOKENS), dense(TOKENS)) and small.head.weight.dtype == dtype
    assert all(torch.equal(small.get_buffer(n), b) for n, b in before.items())
    books = {b.data_ptr() for n, b in small.named_buffers() if n.endswith("_codebook")}
    assert len(books) == 1
    assert torch.equal(small.float()(TOKENS), dense.float()(TOKENS))


def test_what_is_one_tensor_stays_one_wherever_it_goes():
    module = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(6))).eval()
    module[5].weight = module[0].weight
    compress_(module, drawn({f"{i}.weight": (8, 8) for i in range(5)}, 20, n_codebooks=2))
    for moved in (module.double(), module.half(), module.to("meta")):
        assert moved[5].weight_indices is moved[0].weight_indices
        books = [layer.weight_codebook for layer in moved]
        assert books[0] is books[2] is books[4] is books[5] and books[1] is books[3]
        assert books[0] is not books[1] and memory(moved).indices_bytes == 5 * 64
        assert memory(moved).codebook_bytes == 2 * books[0].nbytes
    assert module[0].weight.is_meta


def test_a_part_that_was_written_to_does_not_come_back_into_the_rest():
    module = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(2))).eval()
    compress_(module, drawn({f"{i}.weight": (8, 8) for i in range(2)}, 20))
    expected = module[1].weight.half()
    module[0].half().weight_codebook.zero_()
    assert torch.equal(module.half()[1].weight, expected) and not module[0].weight.any()


def test_type_leaves_the_indices_alone_too(small, dense):
    small.head.type(torch.float16), dense.head.type(torch.float16)
    assert small.head.weight_indices.dtype == torch.uint8
    assert torch.equal(small.head.weight, dense.head.weight)


def test_a_part_moves_alone_and_the_rest_follows(small, dense):
    small.layer.half()
    assert small.layer.linear1.weight.dtype == torch.float16
    assert small.head.weight.dtype == torch.float32
    assert torch.equal(small.half()(TOKENS), dense.half()(TOKENS))
    books = {b.data_ptr() for n, b in small.named_buffers() if n.endswith("_codebook")}
    assert len(books) == 1


def test_a_module_of_another_dtype_gets_the_weights_rounded_once(files):
    small = language().to(torch.bfloat16)
    compress_(small, files[40])
    dense = moeash.load(files[40], into=language().to(torch.bfloat16))
    assert torch.equal(small(TOKENS), dense(TOKENS))


@pytest.mark.parametrize("wrap", [nn.DataParallel, slow(torch.compile)])
def test_wrapped_networks_are_found(files, dense, wrap):
    small = wrap(language(), **({"backend": "eager"} if wrap is torch.compile else {}))
    compress_(small, files[40])
    given = small(TOKENS)  # DataParallel gives them on the first GPU where there is one
    if wrap is torch.compile:  # what a compiled program decodes asks for no gradients
        for parameter in dense.parameters():
            parameter.requires_grad_(parameter.ndim < 2)
    assert torch.equal(given, dense.to(given.device)(TOKENS.to(given.device)))


def test_replicas_for_several_devices_decode(small, dense):
    replica = small.head._replicate_for_data_parallel()
    assert torch.equal(replica.weight, dense.head.weight)


@pytest.mark.slow
def test_compiled_and_exported_programs_give_the_same(files, dense):
    small = language()
    compress_(small, files[40], resident_bytes=10**6)
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(TOKENS), dense(TOKENS), atol=1e-6)
        program = torch.export.export(small, (TOKENS,))
        assert torch.allclose(program.module()(TOKENS), dense(TOKENS), atol=1e-6)
    stored = {t.data_ptr(): t.nbytes for t in program.state_dict.values()}
    assert sum(stored.values()) == memory(small).at_rest_bytes


def test_held_weights_follow_what_they_were_decoded_from(files):
    small, fresh = language(), language()
    compress_(small, files[8], resident_bytes=10**9)
    compress_(fresh, files[8])
    flipped = {name: tensor.flip(0) for name, tensor in fresh.state_dict().items()}
    for change in (
        lambda m: m.head.weight_codebook.mul_(2),
        lambda m: m.head.weight_indices.fill_(0x12),
        lambda m: m.head.weight.detach().zero_() if m is small else None,
        lambda m: m.load_state_dict(flipped),
        lambda m: m.half(),
    ):
        small(TOKENS)
        assert memory(small).held_bytes > 0
        change(small), change(fresh)
        assert torch.equal(small.head.weight, fresh.head.weight)
    assert memory(small).held_bytes == small.head.weight.nbytes


def test_a_weight_that_is_read_twice_in_a_pass_is_decoded_once(files, monkeypatch):
    small, n_decoded = language(), 0
    compress_(small, files[40])
    decode = Packing.weight

    def counting(*arguments):
        nonlocal n_decoded
        n_decoded += 1
        return decode(*arguments)

    monkeypatch.setattr(Packing, "weight", counting)
    with torch.inference_mode():
        small(TOKENS)
    assert n_decoded == 6  # the convolution, four of the layer and the head; rows of the embedding
    first, second = small.head.weight, small.convolution.weight
    assert small.head.weight is first and second.grad is None
    del first
    assert memory(small).held_bytes == 0


def test_held_weights_gather_no_gradients(files):
    small = language()
    compress_(small, files[40], resident_bytes=10**9)
    for _ in range(2):
        small(TOKENS).sum().backward()
    held = [k.held for m in small.modules() for k in getattr(m, "_known", {}).values()]
    assert len(held) == 6 and all(w.grad is None and not w.requires_grad for w in held)


def test_weights_that_are_held_are_those_of_the_layers_that_run_first(files):
    small = language()
    compress_(small, files[40], resident_bytes=32 * 32 * 3 * 4)
    for _ in range(3):
        small(TOKENS)
    assert (
        memory(small).held_bytes == 32 * 32 * 3 * 4
        and small.convolution._known["weight"].held is not None
    )


def test_a_gradient_is_refused_or_warned_of(small):
    for ask in (
        lambda: small.head.requires_grad_(),
        lambda: setattr(small.head, "weight", nn.Parameter(torch.zeros(50, 32))),
        lambda: setattr(small.head, "weight", None),
        lambda: delattr(small.head, "weight"),
        lambda: small.head.reset_parameters(),
    ):
        with pytest.raises(
            InputError, match=r"indices into a codebook.*load the file into a dense"
        ):
            ask()
    small.head.requires_grad_(False)
    with pytest.warns(UserWarning, match="in training mode with gradients on.*call eval"):
        small.train()(TOKENS)
    small(TOKENS)  # said once
    inputs = torch.randn(3, 32, requires_grad=True)
    small.eval().head(inputs).sum().backward()
    assert torch.allclose(inputs.grad, small.head.weight.detach().sum(0).expand(3, 32))


class Scaled(nn.Embedding):
    def forward(self, tokens):
        return super().forward(tokens) * 3


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (Scaled(9, 4), (torch.arange(9),)),
        (nn.EmbeddingBag(9, 4), (torch.arange(9), torch.tensor([0, 4]))),
        (nn.MultiheadAttention(8, 2, batch_first=True), (torch.randn(2, 3, 8),) * 3),
        (
            nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
            (torch.randn(3, 8), torch.randn(3, 6), torch.randn(3, 4)),
        ),
    ],
)
def test_layers_that_read_their_weights_in_their_own_way_are_right(tmp_path, layer, inputs):
    path = written(layer.eval(), tmp_path / "x.moeash", 9)
    dense = moeash.load(path, into=copy.deepcopy(layer))
    report = compress_(layer, path)
    assert report.bits and not report.dense
    outputs = [module(*inputs) for module in (layer, dense)]
    first, second = (out[0] if isinstance(out, tuple) else out for out in outputs)
    assert torch.equal(first, second)


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 5))
        self.last = nn.Linear(5, 5)

    def forward(self, x):
        return self.last(x @ self.table)


def test_a_module_nobody_knows_stays_dense_unless_it_is_vouched_for(tmp_path):
    path = written(Reads(), tmp_path / "x.moeash", 9)
    dense = moeash.load(path, into=Reads())
    x = torch.randn(2, 6)
    small = Reads().eval()
    report = compress_(small, path)
    assert list(report.bits) == ["last.weight"] and "also=[Reads]" in report.dense["table"]
    assert "table: nobody knows how Reads reads it" in str(report)
    assert torch.equal(small(x), dense(x))
    vouched = Reads().eval()
    assert list(compress_(vouched, path, also=[Reads]).bits) == ["table", "last.weight"]
    assert torch.equal(vouched(x), dense(x)) and not dict(vouched.named_parameters()).keys() & {
        "table"
    }


class OwnPickle(nn.Linear):
    def __reduce__(self):
        return OwnPickle, (6, 5)


@pytest.mark.parametrize(
    ("layer", "x", "why"),
    [
        (nn.LSTM(4, 5), torch.randn(3, 2, 4), "nobody knows how LSTM"),
        (nn.Embedding(9, 4, max_norm=1.0), torch.arange(9), "max_norm writes into"),
        (OwnPickle(6, 5), torch.randn(2, 6), "own way to be copied"),
        (torch.fx.symbolic_trace(Reads()), torch.randn(2, 6), "compiled code"),
    ],
)
def test_what_cannot_decode_stays_dense_and_is_named(tmp_path, layer, x, why):
    twin = copy.deepcopy(layer)
    path = written(layer, tmp_path / "x.moeash", 9)
    report = compress_(layer.eval(), path)
    assert all(why in reason for reason in report.dense.values()) and report.dense
    outputs = [module(x) for module in (layer, moeash.load(path, into=twin))]
    first, second = (out[0] if isinstance(out, tuple) else out for out in outputs)
    assert torch.equal(first, second)


def test_an_lstm_stays_dense_even_if_it_is_vouched_for(tmp_path):
    path = written(nn.LSTM(4, 5), tmp_path / "x.moeash", 9)
    report = compress_(nn.LSTM(4, 5), path, also=[nn.LSTM])
    assert "list of its own" in report.dense["weight_ih_l0"]


def test_tied_weights_stay_dense_where_one_of_them_must(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 4, max_norm=1.0)
            self.head = nn.Linear(4, 9, bias=False)
            self.head.weight = self.embedding.weight

    path = written(Tied(), tmp_path / "x.moeash", 9)
    small = Tied()
    assert compress_(small, path).dense.keys() == {"embedding.weight", "head.weight"}
    assert small.head.weight is small.embedding.weight


def test_every_codebook_is_one_tensor():
    module = nn.Sequential(
        nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2)
    ).eval()
    shapes = {f"{i}.weight": tuple(module[i].weight.shape) for i in range(4)}
    shared = drawn(shapes, 20, n_codebooks=2)
    biases = tuple(
        KeptTensor(f"{i}.bias", (n,), "float32", np.ones(n, np.float32))
        for i, n in enumerate((5, 4, 3, 2))
    )
    shared = SharedWeights(shared.codebooks, shared.tensors + biases)
    compress_(module, shared)
    for i in range(4):
        assert np.array_equal(module[i].weight.detach().numpy(), shared.decoded()[f"{i}.weight"])
    assert module[0].weight_codebook is module[2].weight_codebook
    assert module[1].weight_codebook is module[3].weight_codebook
    assert memory(module).codebook_bytes == 2 * 20 * 4


def test_weights_tied_in_the_file_only_are_one_tensor_of_indices():
    shared = drawn({"0.weight": (5, 5)}, 20)
    shared = SharedWeights(shared.codebooks, (*shared.tensors, TiedTensor("1.weight", "0.weight")))
    module = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    compress_(module, shared)
    assert module[0].weight_indices is module[1].weight_indices


def test_a_file_in_half_precision_is_rounded_as_the_dense_network_is():
    shared = drawn({"weight": (6, 7)}, 20, dtype="float16")
    module = nn.Linear(7, 6, bias=False).eval()
    compress_(module, shared)
    assert np.array_equal(
        module.weight.detach().numpy(), shared.decoded()["weight"].astype(np.float32)
    )


def test_more_entries_than_16_bits_hold_stay_dense():
    shared = drawn({"weight": (300, 300)}, 70_000)
    module = nn.Linear(300, 300, bias=False)
    assert "more than 65,536 entries" in compress_(module, shared).dense["weight"]
    assert np.array_equal(module.weight.detach().numpy(), shared.decoded()["weight"])


def test_a_channels_last_network_keeps_its_strides(tmp_path):
    source = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last).eval()
    path = written(source, tmp_path / "x.moeash", 9)
    dense = moeash.load(path, into=copy.deepcopy(source))
    compress_(source, path)
    x = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    assert source.weight.stride() == dense.weight.stride()
    assert torch.equal(source(x), dense(x))


def test_shared_biases_and_norms_are_indices_too(tmp_path):
    source = nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.BatchNorm1d(6)).eval()
    moeash.compress(
        source,
        tmp_path / "x.moeash",
        candidate={"k": 9},
        spec={"network": {"share_all": True}},
        progress=False,
    )
    dense = moeash.load(tmp_path / "x.moeash", into=copy.deepcopy(source))
    assert len(compress_(source, tmp_path / "x.moeash").bits) == 6
    x = torch.randn(3, 8)
    assert torch.equal(source(x), dense(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 5}, "bits is 5; needed 4, 6, 8, 16"),
        ({"bits": 4}, "bits = 4 hold 16 entries, but the file has a codebook of 3[0-9]"),
        ({"resident_bytes": -1}, "resident_bytes is -1"),
        ({"device": "cpuu"}, "device 'cpuu' cannot be used here"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_and_nothing_changes(files, arguments, message):
    module = language(7)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(InputError, match=message):
        compress_(module, files[40], **arguments)
    after = module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_second_file_is_refused(files, small):
    with pytest.raises(InputError, match="indices already; make the network anew"):
        compress_(small, files[40])


def test_a_file_that_does_not_fit_is_refused_and_nothing_changes(files):
    module = language(7)
    module.head = nn.Linear(32, 51)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(CheckpointError) as caught:
        compress_(module, files[40])
    for part in ("1 missing: head.bias", "1 of another shape: head.weight (50, 32) for (51, 32)"):
        assert part in str(caught.value)
    assert all(torch.equal(module.state_dict()[n], t) for n, t in before.items())


def test_a_truncated_file_is_refused(files, tmp_path):
    (tmp_path / "cut.moeash").write_bytes(files[40].read_bytes()[:-9])
    with pytest.raises(ContainerError):
        compress_(language(), tmp_path / "cut.moeash")


def test_it_is_reached_from_the_package_itself():
    assert moeash.nn.compress_ is compress_ and "nn" in dir(moeash)
    assert container.VERSION == 1 and isinstance(language(), Language)
