"""The stream is the sum of its writes; edges cut or patched do what they say; what has no edges is refused."""

import pytest
import torch

from probes.edges import nudged, rewired, writes
from probes.graph import Graph
from probes.hooks import forked, hooked, logits, record
from tests.probes import toys

PAIRS = toys.Corpus().pairs(4, seed=1)
FORKED = ("llama", "gpt2", "neox", "qwen2", "grouped")


def make(family):
    own = {"llama": toys.bridge, "grouped": toys.grouped}
    return own[family]() if family in own else toys.family(family)


@pytest.fixture(scope="module", params=FORKED)
def forkable(request):
    model = make(request.param)
    with torch.no_grad(), forked(model):
        yield model, Graph.of(model)


def everywhere(mask):
    return mask.expand(len(PAIRS.clean), *mask.shape)


@torch.no_grad()
def test_every_reader_reads_the_sum_of_the_writes_before_it(forkable):
    """Up to the attention biases, which say the same to every prompt: differences of two runs show no trace of them."""
    model, graph = forkable
    _, clean = record(model, PAIRS.clean, list(graph.hooks))
    _, corrupted = record(model, PAIRS.corrupted, list(graph.hooks))
    told = writes(model, graph, PAIRS.clean) - writes(model, graph, PAIRS.corrupted)
    for index, reader in enumerate(graph.readers):
        found = clean[reader.hook] - corrupted[reader.hook]
        found = found if reader.head is None else found[:, :, reader.head]
        expected = told[:, graph.present[:, index]].sum(1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(found.abs().max() + 1))


@torch.no_grad()
def test_with_all_edges_cut_the_other_run_comes_out_and_with_none_this_one(forkable):
    model, graph = forkable
    other = writes(model, graph, PAIRS.corrupted)
    with rewired(model, graph, everywhere(graph.present), other):
        torch.testing.assert_close(logits(model, PAIRS.clean), logits(model, PAIRS.corrupted), rtol=0, atol=1e-5)
    with rewired(model, graph, everywhere(torch.zeros_like(graph.present)), other):
        assert torch.equal(logits(model, PAIRS.clean), logits(model, PAIRS.clean))


@torch.no_grad()
def test_one_edge_patched_is_one_edge_cut(forkable):
    """A naive twin: a single patch computed from the two unpatched runs, and a cut computed as the run proceeds."""
    model, graph = forkable
    mine, other = writes(model, graph, PAIRS.corrupted), writes(model, graph, PAIRS.clean)
    for writer, reader in torch.nonzero(graph.present).tolist()[::5]:
        one = torch.zeros_like(graph.present)
        one[writer, reader] = True
        with rewired(model, graph, everywhere(one), other):
            cut = logits(model, PAIRS.corrupted)
        with nudged(model, graph, torch.full((4,), reader), (other - mine)[:, writer]):
            torch.testing.assert_close(logits(model, PAIRS.corrupted), cut, rtol=0, atol=1e-5)


@torch.no_grad()
def test_rows_of_a_batch_are_patched_apart(forkable):
    model, graph = forkable
    told = writes(model, graph, PAIRS.clean) - writes(model, graph, PAIRS.corrupted)
    places = [(0, 0), (0, len(graph.readers) - 1), (1, graph.places["L0H0->L0MLP"][1] if not graph.parallel else -1)]
    reader = torch.tensor([place[1] % len(graph.readers) for place in places])
    change = torch.stack([told[row, writer] for row, (writer, _) in enumerate(places)])
    with nudged(model, graph, reader, change):
        together = logits(model, PAIRS.corrupted[:3])
    for row in range(3):
        with nudged(model, graph, reader[row : row + 1], change[row : row + 1]):
            alone = logits(model, PAIRS.corrupted[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


def test_flags_are_as_before_also_after_an_exception(model):
    with pytest.raises(RuntimeError, match="on purpose"), forked(model):
        assert model.cfg.use_split_qkv_input and model.cfg.use_hook_mlp_in
        raise RuntimeError("on purpose")
    assert not model.cfg.use_split_qkv_input and not model.cfg.use_hook_mlp_in
    model.set_use_hook_mlp_in(True)
    with forked(model):
        pass
    assert model.cfg.use_hook_mlp_in
    model.set_use_hook_mlp_in(False)


def test_a_stream_that_is_no_sum_of_writes_is_refused(model):
    """As in models that put a norm behind each component: here the output of an MLP is doubled behind its hook."""
    graph = Graph.of(model)
    with (
        torch.no_grad(),
        hooked(model, {"blocks.1.hook_resid_pre": lambda stream: 2 * stream}),
        pytest.raises(ValueError, match="not the sum of what its heads and MLPs write .* use Patching"),
    ):
        writes(model, graph, PAIRS.clean)


def test_the_graph_of_each_family_says_who_reads_whom():
    sequential, parallel = Graph(2, 2, 2), Graph(2, 2, 2, parallel=True)
    assert "L0H1->L0MLP" in sequential.edges and "L0H1->L0MLP" not in parallel.edges
    assert "L0MLP->L1MLP" in parallel.edges and "L1H0->L1H1.q" not in sequential.edges
    assert Graph.of(toys.family("neox")) == parallel and Graph.of(toys.grouped()) == Graph(2, 2, 1)
    assert len(Graph(2, 4, 4).edges) == 12 + 5 + 12 * 6 + 10 + 11  # q, k, v and MLP of both blocks, logits


def test_edges_that_lead_nowhere_or_come_from_nowhere_are_trimmed():
    graph = Graph(2, 2, 2)
    path = ("input->L0H0.v", "L0H0->L1H1.q", "L1H1->logits")
    idle = ("input->L0H1.k", "L0MLP->logits", "L0H0->L1MLP")
    assert torch.equal(graph.trimmed(graph.mask(path + idle)), graph.mask(path))
    assert not graph.trimmed(graph.mask(path[1:])).any()


def test_unknown_edges_are_refused():
    with pytest.raises(
        ValueError, match="2 edges are not in a model of 1 layers of 2 heads, the first is 'L3H0->logits'"
    ):
        Graph(1, 2, 2).mask(["L3H0->logits", "input->logits", "logits->input"])
