"""Memory and time of a plan: numbers calculated by hand, and what must grow or shrink with what."""

from __future__ import annotations

import dataclasses
import math

import pytest

from conversion.families import family_for
from recipes.planning.architectures import PUBLISHED, cache_bytes, parameters, published, stage_parameters
from recipes.planning.hardware import LINK_SHARE, OURS, Kernels, gpu_of
from recipes.planning.layout import Layout, Rollout
from recipes.planning.memory import layer_activations, memory_of, saved_bytes, state_bytes, verdict
from recipes.planning.servers import Servers
from recipes.planning.timing import (
    Generator,
    Model,
    gathering_seconds,
    generation_seconds,
    generator_of,
    handover_seconds,
    pass_seconds,
    swap_seconds,
    update_seconds,
)
from recipes.runtime.config import ClusterConfig, ConfigError

H100 = gpu_of(ClusterConfig())
LLAMA_70B = published("Llama-3.1-70B")
ROLLOUT = Rollout(groups=64, copies=16, prompt_tokens=300, response_tokens=1536, limit=3072)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # A layer: 8192 (8192 + 2 x 1024) + 8192 x 8192 + 3 x 8192 x 28672 + 2 x 8192 = 855,654,400; 80 of them, twice
        # 128256 x 8192 and 8192 are 70,553,706,496.
        ("Llama-3.1-70B", 70.553706496),
        ("Qwen2.5-72B", 72.706203648),
        ("Qwen2.5-32B", 32.763876352),
        ("Qwen3-32B", 32.762123264),
        # The embedding is the output matrix too.
        ("Qwen2.5-3B", 3.085938688),
    ],
)
def test_parameters_are_the_published_ones(name: str, billions: float) -> None:
    assert parameters(published(name)) == round(billions * 1e9)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_conversion_would_write(name: str) -> None:
    """The weight map is what a checkpoint has; the formula must count the same."""
    architecture = published(name)
    assert parameters(architecture) == sum(e.parameters for e in family_for(PUBLISHED[name]).entries(architecture))


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"model.architecture=Llama-4: expected one of Llama-3.1-8B, .*Qwen2.5-72B"):
        published("Llama-4")


def test_bytes_of_one_token_in_the_cache() -> None:
    assert cache_bytes(LLAMA_70B) == 80 * 2 * 8 * 128 * 2 == 327_680
    assert cache_bytes(published("Qwen2.5-3B")) == 36 * 2 * 2 * 128 * 2


@pytest.mark.parametrize(
    ("layout", "billions", "gib"),
    [
        # Megatron-LM's own script on 64 GPUs: parameters of the fullest shard, and 6 + 12 / DP bytes each.
        (Layout(tensor=4, pipeline=4, data=4), 4.54, 38.1),
        (Layout(tensor=4, pipeline=8, data=2), 2.40, 26.8),
        (Layout(tensor=8, pipeline=4, data=2), 2.27, 25.4),
        (Layout(tensor=4, pipeline=4, data=2), 4.54, 50.8),
    ],
)
def test_weights_gradients_and_optimizer_state(layout: Layout, billions: float, gib: float) -> None:
    assert stage_parameters(LLAMA_70B, layout.tensor, layout.pipeline) == pytest.approx(billions * 1e9, rel=0.002)
    assert sum(state_bytes(LLAMA_70B, layout).values()) / 2**30 == pytest.approx(gib, rel=0.002)


def test_state_without_data_parallelism_and_in_float32() -> None:
    held = stage_parameters(LLAMA_70B, 8, 1)
    assert sum(state_bytes(LLAMA_70B, Layout(tensor=8)).values()) == held * 18
    # Weights 4, gradients 4, two moments 8 / DP; the weights are the main weights.
    assert sum(state_bytes(LLAMA_70B, Layout(tensor=8, data=2, bytes_per_weight=4)).values()) == held * (4 + 4 + 4)


def test_fp8_keeps_two_bytes_more_of_a_layers_matrices() -> None:
    bf16, fp8 = (state_bytes(LLAMA_70B, Layout(tensor=8, pipeline=2, fp8=on))["weights"] for on in (False, True))
    # 855,654,400 a layer less its two norms.
    assert fp8 - bf16 == 2 * 40 * (855_654_400 - 2 * 8192) / 8


def test_activations_of_a_layer() -> None:
    # 2 (4 x 8192 + 2 x 8192 + 2 x 1024 + 3 x 28672) bytes a token, all of it divided by 8.
    assert layer_activations(LLAMA_70B, Layout(tensor=8, sequence=True)) == 2 * (32768 + 16384 + 2048 + 86016) / 8
    # Without sequence parallelism the norms' are whole.
    assert layer_activations(LLAMA_70B, Layout(tensor=8)) == 2 * (32768 + (16384 + 2048 + 86016) / 8)
    assert layer_activations(LLAMA_70B, Layout(tensor=8, sequence=True, recompute=1)) == 2 * 8192 / 8


def test_the_cache_has_room_for_every_response_at_once() -> None:
    layout = Layout(tensor=8, pipeline=2, data=4, sequence=True)
    memory = memory_of(LLAMA_70B, layout, ROLLOUT, reference=True, longest_prompt=1024)
    # A replica's 16 prompts x 1024 tokens and 256 responses x 3072, x 327,680 bytes / 16 GPUs, and one of the stage's
    # 40 layers again.
    assert memory.sampling["KV cache"] == pytest.approx((16 * 1024 + 256 * 3072) * 327_680 / 16 * (1 + 1 / 40))
    assert memory.host == {"reference policy": stage_parameters(LLAMA_70B, 8, 2) * 2}
    assert memory.peak == max(memory.training_peak, memory.sampling_peak, memory.saving_peak)
    assert memory_of(LLAMA_70B, layout, ROLLOUT, reference=False, longest_prompt=1024).host == {}


def test_a_whole_model_to_sample_with_on_every_gpu() -> None:
    """Its weights stay while training; of the cache every GPU of 64 has its responses alone, for all 80 layers."""
    layout = Layout(tensor=8, pipeline=2, data=4, sequence=True)
    shared, alone = (
        memory_of(LLAMA_70B, layout, ROLLOUT, reference=True, longest_prompt=1024, alone=alone)
        for alone in (False, True)
    )
    assert alone.always == shared.always | {"sampling copy": 2 * parameters(LLAMA_70B)}
    assert alone.sampling["KV cache"] * 41 / 40 == pytest.approx(shared.sampling["KV cache"] * 81 / 80)
    assert alone.sampling["sampling logits"] == shared.sampling["sampling logits"] / 16
    # 140 GB, of which 15 sixteenths come from others over the network.
    assert gathering_seconds(model()) == 0
    taken = 2 * parameters(LLAMA_70B) * 15 / 16 / (H100.network * LINK_SHARE)
    assert gathering_seconds(model(layout)) == pytest.approx(taken)
    found = generator_of(layout, "embedded", alone=True)
    assert (found.tensor, found.pipeline, found.gpus) == (1, 1, 64)


def test_what_a_save_takes_of_gpu_and_node() -> None:
    """With four data parallel ranks: 12 bytes a parameter gathered and 12 copied; with one, its own 12 and 8 beside."""
    gpu, host = saved_bytes(1e9, 4)
    assert (gpu, host) == (4e9 + 1e9, 24e9)
    assert saved_bytes(1e9, 1) == (8e9, (12 + 8 + 12) * 1e9)
    layout = Layout(tensor=8, pipeline=2, data=4, sequence=True)
    memory = memory_of(LLAMA_70B, layout, ROLLOUT, reference=True, longest_prompt=1024)
    held = stage_parameters(LLAMA_70B, 8, 2)
    assert memory.saving_peak == sum(memory.always.values()) + 5 * held
    assert memory.of_node(8) == 8 * held * (24 + 2)


def test_verdicts() -> None:
    layout = Layout(tensor=8, pipeline=2, data=4, sequence=True)
    memory = memory_of(LLAMA_70B, layout, ROLLOUT, reference=True, longest_prompt=1024)
    found = [verdict(memory, memory.peak * factor) for factor in (0.99, 1.05, 1.2)]
    assert found == ["does not fit", "tight", "fits"]


@pytest.mark.parametrize("change", [{"tensor": 8}, {"pipeline": 4}, {"data": 8}, {"recompute": 1}, {"sequence": True}])
def test_what_makes_memory_smaller(change: dict[str, float]) -> None:
    before = Layout(tensor=4, pipeline=2, data=4)
    after = dataclasses.replace(before, **change)
    peaks = [
        memory_of(LLAMA_70B, layout, ROLLOUT, reference=False, longest_prompt=1024).training_peak
        for layout in (before, after)
    ]
    assert peaks[1] < peaks[0]


# --- lengths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "limit"), [(100, 3072), (1536, 3072), (3000, 3072)])
def test_lengths_have_the_mean_that_was_asked_for(mean: int, limit: int) -> None:
    rollout = Rollout(1, 8, 50, mean, limit)
    alive = [math.exp(-rollout.rate * (t + 0.5)) for t in range(limit)]
    assert sum(alive) == pytest.approx(mean, rel=1e-3)
    # What is read of the cache, by the sum that the integral stands for.
    assert rollout.attended == pytest.approx(sum(s * (50 + t + 0.5) for t, s in enumerate(alive)), rel=1e-3)
    own = sum(s * (t + 0.5) for t, s in enumerate(alive))
    assert rollout.shared_attended == pytest.approx(50 * rollout.longest(8) / 8 + own, rel=1e-3)


def test_the_longest_response() -> None:
    rollout = Rollout(1, 8, 50, 100, 100_000)
    # One of mean 100 (0.577 for Euler's constant); of 1024 the harmonic number 7.51.
    assert rollout.longest(1024) == pytest.approx(100 * (math.log(1024) + 0.577), rel=1e-3)
    assert ROLLOUT.longest(1024) == 3072


def test_a_prompt_counts_once_in_each_micro_batch_of_its_responses() -> None:
    rollout = Rollout(groups=2, copies=8, prompt_tokens=256, response_tokens=48, limit=96)
    assert rollout.packed_tokens(8192) == 2 * (256 + 8 * 48)
    # 300 - 256 = 44 tokens of room, less than a response: one a micro-batch.
    assert rollout.packed_tokens(300) == 2 * 8 * (256 + 48)


# --- time ---------------------------------------------------------------------------------------------------------


def model(layout: Layout = Layout(), kernels: Kernels = OURS) -> Model:  # noqa: B008
    return Model(LLAMA_70B, layout, H100, kernels)


def test_matrix_products_forward_and_backward() -> None:
    forward = pass_seconds(model(), 1000, 500, trained="nothing")
    # 2 x (80 x 855,638,016 + 128256 x 8192) operations a token at 0.45 of 989.4e12.
    once = 2 * (80 * 855_638_016 + 128_256 * 8192) * 1000 / (0.45 * 989.4e12)
    assert forward["matrix products"] == pytest.approx(once)
    trained = pass_seconds(model(), 1000, 500, trained="all", recomputes_output=False)
    assert trained["matrix products"] == pytest.approx(3 * once)
    adapters = pass_seconds(model(), 1000, 500, trained="lora", recomputes_output=False)
    assert adapters["matrix products"] == pytest.approx(2 * once)
    # 4 x 8192 x 500 operations a token and layer at 0.35 of the peak, and two and a half times that backward.
    assert forward["attention"] == pytest.approx(80 * 4 * 8192 * 500 * 1000 / (0.35 * 989.4e12))
    assert trained["attention"] == pytest.approx(3.5 * forward["attention"])


def test_recomputation_adds_one_forward_pass() -> None:
    kept, again = (
        pass_seconds(model(Layout(tensor=8, recompute=share)), 1e6, 500, trained="all", recomputes_output=False)
        for share in (0.0, 1.0)
    )
    forward = pass_seconds(model(Layout(tensor=8)), 1e6, 500, trained="nothing")
    output = 2 * 128_256 * 8192 * 1e6 / (0.45 * 989.4e12) / 8
    assert again["matrix products"] - kept["matrix products"] == pytest.approx(forward["matrix products"] - output)
    for part in ("attention", "element-wise", "tensor parallel"):
        assert again[part] - kept[part] == pytest.approx(forward[part])


def test_tensor_parallel_volume_and_where_it_is_hidden() -> None:
    # Four times 8192 values of 2 bytes, 7/8 of them from others, in 80 layers, over 0.8 of 450e9 bytes a second; the
    # eight GPUs of a group send at the same time what one GPU alone would not send at all.
    seconds = pass_seconds(model(Layout(tensor=8)), 1000, 500, trained="nothing")["tensor parallel"]
    assert seconds == pytest.approx(80 * 4 * 8192 * 2 * 7 / 8 * 1000 / (0.8 * 450e9))
    hidden = pass_seconds(model(Layout(tensor=8), Kernels(0.35, True)), 1000, 500, trained="nothing")
    assert hidden["tensor parallel"] == 0
    across_nodes = pass_seconds(model(Layout(tensor=16)), 1000, 500, trained="nothing")["tensor parallel"]
    assert across_nodes > 5 * seconds


def test_the_pipeline_bubble_shrinks_with_more_micro_batches() -> None:
    def bubble(pipeline: int, tokens: int) -> float:
        layout = Layout(pipeline=pipeline, micro_batch_tokens=4096)
        parts = pass_seconds(model(layout), tokens, 500, trained="all")
        return parts["pipeline bubble"] / sum(parts.values())

    assert bubble(1, 409_600) == 0
    assert bubble(8, 409_600) > bubble(4, 409_600) > bubble(4, 4_096_000) > 0


def test_fp8_halves_products_of_layers_and_nothing_else_becomes_shorter() -> None:
    bf16, fp8 = (pass_seconds(model(Layout(fp8=on)), 1000, 500, trained="nothing") for on in (False, True))
    layers = 2 * 80 * 855_638_016 * 1000 / 0.45
    assert bf16["matrix products"] - fp8["matrix products"] == pytest.approx(layers / 989.4e12 - layers / 1978.9e12)
    assert fp8["element-wise"] == pytest.approx(1.5 * bf16["element-wise"])
    assert fp8["attention"] == bf16["attention"]


def test_optimizer_step_and_swap() -> None:
    layout = Layout(tensor=8, pipeline=2, data=4)
    held = stage_parameters(LLAMA_70B, 8, 2)
    # 6 bytes of 3/4 of the shard over 0.8 of 50e9, between nodes: eight ranks of a node are one tensor parallel group.
    assert update_seconds(model(layout))["gradients and weights"] == pytest.approx(6 * held * 0.75 / 40e9)
    within_a_node = update_seconds(model(Layout(tensor=2, data=4)))["gradients and weights"]
    assert within_a_node == pytest.approx(6 * stage_parameters(LLAMA_70B, 2, 1) * 0.75 / (0.8 * 450e9))
    # The policy's shard out and the reference's in, 2 bytes a parameter at 10e9 a second.
    assert swap_seconds(model(layout)) == pytest.approx(2 * 2 * held / 10e9)


def test_embedded_sampling_reads_the_weights_of_all_stages_in_turn() -> None:
    short = Rollout(groups=4, copies=2, prompt_tokens=10, response_tokens=20, limit=40)
    parts = {
        stages: generation_seconds(model(), Generator("embedded", 8, 8 * stages, pipeline=stages), short)
        for stages in (1, 2)
    }
    steps = short.longest(8)
    assert parts[1]["weights"] == pytest.approx(steps * parameters(LLAMA_70B) * 2 / (8 * 0.8 * 3.35e12))
    assert parts[2]["weights"] == parts[1]["weights"]
    assert parts[1]["launches"] == pytest.approx(steps * 80 * 0.7e-3)


def test_an_engine_is_faster_than_the_embedded_sampler_and_batches_cost_in_turn() -> None:
    layout = Layout(tensor=8, pipeline=2, data=4)
    embedded, engine = (
        sum(generation_seconds(model(layout), generator_of(layout, kind), ROLLOUT).values())
        for kind in ("embedded", "engine")
    )
    assert engine < embedded / 2
    few = Generator("engine", tensor=8, gpus=64, rows=8)
    all_at_once = dataclasses.replace(few, rows=0)
    assert generation_seconds(model(), few, ROLLOUT)["launches"] > (
        5 * generation_seconds(model(), all_at_once, ROLLOUT)["launches"]
    )


# --- vLLM's servers -----------------------------------------------------------------------------------------------


def test_weights_are_handed_over_at_a_published_rate_as_far_as_links_allow() -> None:
    size = 2 * parameters(LLAMA_70B)
    # 141.1e9 bytes at 14.1e9 a second.
    assert handover_seconds(model(), size, 64) == {"pausing and waking": 4.0, "weights": pytest.approx(10.008, 1e-4)}
    slow = Model(LLAMA_70B, Layout(), gpu_of(ClusterConfig(network_gb_s=5)), OURS)
    # In and out again through 0.8 of 5e9.
    assert handover_seconds(slow, size, 64)["weights"] == pytest.approx(size / 2e9)
    assert handover_seconds(slow, size, 8)["weights"] == pytest.approx(10.008, 1e-4)


def test_a_response_that_ends_makes_room_for_the_next() -> None:
    """256 responses of a copy, 64 at once: 192 wait, and the last begins after 192 / 64 means at the latest."""
    engine = Generator("engine", tensor=8, gpus=32, rows=64, refills=True)
    launches = generation_seconds(model(), engine, ROLLOUT)["launches"]
    assert launches == pytest.approx(0.0054 * (3 * 1536 + ROLLOUT.longest(64)))
    in_turn = generation_seconds(model(), dataclasses.replace(engine, refills=False), ROLLOUT)["launches"]
    assert in_turn == pytest.approx(0.0054 * 4 * ROLLOUT.longest(64))
    # With room for all, everybody waits for the longest of all.
    roomy = dataclasses.replace(engine, rows=256)
    assert generation_seconds(model(), roomy, ROLLOUT)["launches"] == pytest.approx(0.0054 * ROLLOUT.longest(1024))


def test_a_servers_room() -> None:
    servers = Servers(8, 64, colocated=True, sleeps=True, share=0.4, weight_bytes=2, memory=80e9)
    assert servers.taken == 32e9
    # 32e9 less an eighth of 141,107,412,992 and 4e9, on 8 GPUs, at 327,680 bytes a token.
    assert servers.cached_tokens(LLAMA_70B) == pytest.approx(8 * (32e9 - 141_107_412_992 / 8 - 4e9) / 327_680)
    # 252,968 tokens; a response holds so many on average while it is written.
    held = ROLLOUT.attended / ROLLOUT.response_tokens
    generator = servers.generator(LLAMA_70B, ROLLOUT)
    assert (generator.rows, generator.refills) == (int(252_968 / held), True)
    assert dataclasses.replace(servers, tensor=2).cached_tokens(LLAMA_70B) < 0
