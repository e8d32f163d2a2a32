"""The figures that an RL run logs: what each means and when it is healthy."""

from collections import defaultdict
from collections.abc import Sequence

from openzaya.core.log import declare
from openzaya.rl.config import Group
from openzaya.rl.pipeline.actor import ActorStats

declare("rl/reward", "share", "mean task reward over all groups seen", (0.02, 0.98), "IV-B1")
declare("rl/kept_share", "share", "groups with contrast / groups seen", (0.1, 1.0), "IV-B1(d)")
declare("rl/all_wrong_share", "share", "groups without a success / groups seen", (0.0, 0.8))
declare("rl/all_right_share", "share", "groups without a failure / groups seen", (0.0, 0.8))
declare("rl/trained_groups", "groups", "groups that the update was made from")
declare("rl/infra_groups", "groups", "groups dropped because a verdict was INFRA", (0.0, 0.0))
declare("rl/too_long_prompts", "prompts", "prompts without room for a whole response", (0.0, 0.0))
declare("rl/grad_norm", "1", "2-norm of all gradients before clipping")
declare("rl/response_tokens", "tokens", "generated tokens / rollouts")
declare("rl/cut_share", "share", "rollouts that ended at the budget", (0.0, 0.2))
declare("rl/canary_share", "share", "rollouts flagged by the canary", (0.0, 0.02), "IV-F(a)")
declare("rl/rare_share", "share", "tokens in the rarest tenth of the ids", (0.0, 0.2), "IV-F(b)")
declare("rl/applied", "1", "1 when the update was applied")
declare("rl/staleness", "updates", "largest age of a trained group", (0.0, 2.0), "IV-B1(a)")
declare("rl/stale_groups", "groups", "groups dropped as too old, so far")
declare("rl/evicted_groups", "groups", "groups dropped because the buffer was full, so far")
declare("rl/load_entropy", "1", "mean over layers of H(share) / ln E", (0.5, 1.0), "II-A2, Fig. 4")
for _name, _formula in (
    ("rl/masked_share_positive", "masked tokens / tokens, A > 0"),
    ("rl/masked_share_negative", "masked tokens / tokens, A < 0"),
    ("rl/mean_abs_prob_change", "mean |pi - mu|"),
    ("rl/mismatch_kl", "mean k3 estimate of KL(mu || pi)"),
    ("rl/mismatch_kl_kept", "the same over tokens that were kept"),
    ("rl/mismatch_kl_masked", "the same over tokens that were masked"),
    ("rl/entropy_estimate", "mean -log pi of sampled tokens"),
    ("rl/ratio_ess", "(sum ratio)^2 / (tokens * sum ratio^2)"),
    ("rl/ratio_over_cap_share", "tokens with a truncated ratio / tokens"),
):
    declare(_name, "1", _formula, paper="IV-B1(b)")


def rollout_figures(seen: Sequence[Group], kept: int, stats: ActorStats) -> dict[str, float]:
    """Return what a step's rollouts were like; INFRA groups only show in their own counts."""
    rewards = [reward for group in seen for reward in group.rewards]
    rollouts, groups = max(1, stats.rollouts), max(1, len(seen))
    figures = {
        "rl/reward": sum(rewards) / max(1, len(rewards)),
        "rl/kept_share": kept / groups,
        "rl/all_wrong_share": sum(max(g.rewards) == 0 for g in seen) / groups,
        "rl/all_right_share": sum(min(g.rewards) == 1 for g in seen) / groups,
        "rl/infra_groups": float(stats.infra_groups),
        "rl/too_long_prompts": float(stats.too_long),
        "rl/response_tokens": stats.tokens / rollouts,
        "rl/cut_share": stats.cut / rollouts,
        "rl/canary_share": stats.flagged / rollouts,
        "rl/rare_share": stats.rare / rollouts,
    }
    by_source: dict[str, list[float]] = defaultdict(list)
    for group in seen:
        by_source[group.prompt.source] += group.rewards
    for source, values in sorted(by_source.items()):
        name = f"rl/reward/{source}"
        declare(name, "share", "mean task reward of one source", paper="IV-B1")
        figures[name] = sum(values) / len(values)
    return figures
