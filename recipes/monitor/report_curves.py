"""Which curves the report draws, and what each looks like in a healthy run.

Left out: the loss and the learning rate. The loss of a policy gradient says nothing about progress (its expected value
hardly moves while the policy improves), and the learning rate follows from the configuration.
"""

from __future__ import annotations

from recipes.monitor.phases import Phase
from recipes.monitor.report_charts import Chart, Line

CHARTS = (
    Chart(
        "reward",
        "Reward",
        "number",
        (
            Line("reward/mean", "Mean", "ink"),
            Line("reward/choice", "Multiple choice", "blue"),
            Line("reward/calculation", "Calculation", "orange"),
            Line("reward/text", "Open-ended", "green"),
        ),
        "It climbs quickly at first, then flattens. Every task takes part; one that stays flat is too hard, too easy "
        "or badly scored. A sudden jump is more often a trick found than a lesson learned: read the samples there.",
    ),
    Chart(
        "accuracy",
        "Accuracy of the rollouts",
        "percent",
        (
            Line("accuracy/mean", "Mean", "ink"),
            Line("accuracy/choice", "Multiple choice", "blue"),
            Line("accuracy/calculation", "Calculation", "orange"),
            Line("accuracy/text", "Open-ended", "green"),
        ),
        "It rises together with the reward. Reward that grows while accuracy stands still comes from format or length "
        "alone. These are training questions; the table above has the held-out ones.",
    ),
    Chart(
        "components",
        "Reward components",
        "number",
        (
            Line("reward/component/answer", "Answer", "blue"),
            Line("reward/component/format", "Format", "orange"),
            Line("reward/component/length", "Length", "green"),
        ),
        "Format is learned within the first steps, the answer part carries the growth after that, and the length part "
        "stays small beside it.",
    ),
    Chart(
        "length",
        "Response length",
        "tokens",
        (
            Line("length/mean", "Mean, tokens", "blue"),
            Line("length/p90", "90th percentile, tokens", "orange"),
        ),
        "It drifts and settles. A collapse to a few tokens means that answers are given away without reasoning; a "
        "climb to the token limit means rambling, or a length reward that points the wrong way.",
        from_zero=True,
    ),
    Chart(
        "obedience",
        "Length as asked",
        "percent",
        (
            Line("length/error", "Off an exact target, mean share of it", "orange"),
            Line("length/within_share", "Within a maximum", "blue"),
        ),
        "The first falls and the second rises while accuracy does not fall; what is left of the first is what the "
        "policy cannot count. Where only the shortest targets are missed, they are shorter than any answer can be.",
        from_zero=True,
    ),
    Chart(
        "format",
        "Format errors and truncation",
        "percent",
        (
            Line("format/error_share", "Format errors", "orange"),
            Line("length/truncated_share", "Cut off at the limit", "blue"),
        ),
        "Both fall towards zero early and stay there. Format errors that come back late are a warning of collapse.",
        from_zero=True,
    ),
    Chart(
        "phases",
        "Phases of training",
        "percent",
        tuple(
            Line(phase.metric, phase.words.capitalize(), tone)
            for phase, tone in zip(Phase, ("grey", "blue", "green", "orange", "purple", "ink"), strict=True)
        ),
        "Layers add up to all responses. Format failures give way to verbose and concise reasoning within the tags. "
        "Growing shares of direct answers, or of steps outside the tags, mean that the reward pays for cheating: look "
        "at what its preset and form ask for.",
        stacked=True,
    ),
    Chart(
        "kl",
        "KL to the reference policy",
        "number",
        (Line("policy/kl", "KL, nats a token", "blue"),),
        "It starts at zero and grows slowly and smoothly. A spike means an update that was too large; steep growth "
        "without gain in accuracy means that the model drifts away for nothing.",
        from_zero=True,
    ),
    Chart(
        "entropy",
        "Entropy of the policy",
        "number",
        (Line("policy/entropy", "Entropy, nats a token", "blue"),),
        "It falls gently. Near zero the model no longer explores and learning stops; rising entropy with falling "
        "reward means that the text is falling apart.",
        from_zero=True,
    ),
    Chart(
        "reasoning",
        "What reasoning tells of the answer",
        "number",
        (Line("reasoning/gain", "Gain, nats a token", "blue"),),
        "Above zero and rising: the policy's reasoning makes the right answer likelier in its own eyes. Near zero it "
        "decorates an answer that was settled before; accuracy that rises while this falls means answers learned by "
        "heart. Below zero it talks itself out of what it knows.",
        special=True,
    ),
    Chart(
        "groups",
        "Groups without a lesson",
        "percent",
        (
            Line("groups/zero_advantage_share", "Zero advantage", "blue"),
            Line("groups/null_reward_share", "Null reward", "orange"),
        ),
        "A group whose answers are all right or all wrong has zero advantage and teaches nothing. Some are normal and "
        "the share grows as questions get solved; above about 70% most of the compute is spent for nothing. Null "
        "rewards are faults of the reward server and stay near zero.",
        from_zero=True,
    ),
    Chart(
        "critic",
        "Critic",
        "number",
        (
            Line("critic/explained_variance", "Explained variance", "blue"),
            Line("critic/r_squared", "Against the mean return", "orange"),
        ),
        "Both climb from below zero towards one while the critic learns what responses are paid, and stay positive. "
        "Below zero a constant would serve better, and advantages are mostly noise: give the critic steps of its own, "
        "or a higher rate.",
        special=True,
    ),
    Chart(
        "critic_gradient",
        "Gradient norm of the critic",
        "number",
        (Line("critic/grad_norm", "Before clipping", "blue"),),
        "It falls as values settle. A jump with no change in the policy's own curves points to how values are "
        "computed: look at mismatch/* and at what was updated.",
        from_zero=True,
        special=True,
    ),
    Chart(
        "gradient",
        "Gradient norm",
        "number",
        (Line("policy/grad_norm", "Gradient norm", "blue"),),
        "It stays within the same order of magnitude. Single spikes are caught by clipping; a rising floor is not.",
        from_zero=True,
    ),
    Chart(
        "clip",
        "Clipped tokens",
        "percent",
        (Line("policy/clip_share", "Share of tokens at the clip range", "blue"),),
        "A few percent or less. Near zero throughout is normal with one update a batch; above about 20% the updates "
        "are too large for the clip range.",
        from_zero=True,
    ),
    Chart(
        "mismatch",
        "Sampler and trainer",
        "number",
        (Line("mismatch/token_prob_error", "Token probability error", "blue"),),
        "The sampler and the trainer give the same token nearly the same probability, so the line is flat. Growth "
        "means stale weights in the sampler or different numerics, and the policy ratios can no longer be trusted.",
        from_zero=True,
    ),
    Chart(
        "time",
        "Where the time goes",
        "seconds",
        (
            Line("time/generate_s", "Generate", "blue"),
            Line("time/score_s", "Score", "orange"),
            Line("time/train_s", "Train", "green"),
        ),
        "Layers add up to the seconds of a step. Generation dominates and follows the response length; scoring is "
        "thin. A thick scoring layer means that the reward server needs more workers.",
        stacked=True,
    ),
)
