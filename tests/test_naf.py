"""NAF: its quadratic by an explicit double loop, its loss and gradients by hand, broken copies."""

import numpy as np
import pytest
import torch
from test_losses import (
    ACT,
    BATCH,
    OBS,
    arrays,
    assert_caught,
    assert_gradient_in,
    assert_slope,
    layer,
    setup,
)

import naf_continuous as naf


def numpy_heads(net, obs):
    """Return V(s), μ(s) and P(s), the last by hand from L: lower triangle, positive diagonal."""
    scale, bias = net.action_scale.double().numpy(), net.action_bias.double().numpy()
    x = np.maximum(layer(np.maximum(layer(obs, net.fc1), 0), net.fc2), 0)
    mu = np.tanh(layer(x, net.fc_mu)) * scale + bias
    entries = layer(x, net.fc_l).reshape(-1, len(scale), len(scale))
    P = np.zeros_like(entries)
    for n in range(len(obs)):
        L = np.zeros_like(P[n])
        for i in range(len(scale)):
            L[i, i] = np.exp(min(entries[n, i, i], 20))
            for j in range(i):
                L[i, j] = entries[n, i, j]
        P[n] = L @ L.T
    return layer(x, net.fc_v)[:, 0], mu, P


def numpy_q(net, obs, actions):
    """Q(s, a) = V(s) - ½ Σ_i Σ_j u_i P_ij u_j, u = a - μ in units of half the action range."""
    v, mu, P = numpy_heads(net, obs)
    u = (actions - mu) / net.action_scale.double().numpy()
    q = v.copy()
    for n in range(len(obs)):
        for i in range(u.shape[1]):
            for j in range(u.shape[1]):
                q[n] -= 0.5 * u[n, i] * P[n, i, j] * u[n, j]
    return q


def numpy_target(nets, data, gamma):
    _, _, next_obs, dones, rewards = arrays(data)
    return rewards + gamma * (1 - dones) * numpy_heads(nets.qf1_target, next_obs)[0]


def numpy_loss(nets, data, y):
    obs, actions, *_ = arrays(data)
    return ((numpy_q(nets.qf1, obs, actions) - y) ** 2).mean()


def check_critic_loss_value(script):
    nets, data, args = setup(script)
    expected = numpy_loss(nets, data, numpy_target(nets, data, args.gamma))
    assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected, rel=1e-5)


def check_critic_gradient(script):
    """All three heads learn from one loss; the target network does not move."""
    nets, data, args = setup(script)
    script.critic_backward(nets.requires_grad_(True), data, args)
    y = numpy_target(nets, data, args.gamma)
    for weight in "fc_v.bias", "fc_mu.weight", "fc_l.weight", "fc1.weight":
        assert_slope(nets, f"qf1.{weight}", lambda nets: numpy_loss(nets, data, y))
    assert_gradient_in(nets, "qf1")


def random_net(script, dim):
    """Return a critic of uneven bounds whose L is far from diagonal, states and actions."""
    torch.manual_seed(dim)
    low, high = -1.0 - np.arange(dim), 1 + 2.0 * np.arange(dim)
    net = script.Networks(OBS, dim, low, high, script.Args()).qf1
    with torch.no_grad():
        net.fc_l.weight.mul_(5)
    actions = torch.rand(BATCH, dim) * torch.tensor(high - low).float() + torch.tensor(low).float()
    return net, torch.randn(BATCH, OBS), actions


def check_advantage(script):
    """By a double loop; P is symmetric, positive definite and minus the Hessian of Q."""
    for dim in 1, 3, 6:
        net, obs, actions = random_net(script, dim)
        with torch.no_grad():
            q, (v, mu, _) = net(obs, actions), net.heads(obs)
            expected = numpy_q(net, obs.numpy(), actions.numpy())
            np.testing.assert_allclose(q, expected, rtol=1e-4)
            assert (q < v).all()
            torch.testing.assert_close(net(obs, mu), v)
        _, numpy_mu, P = numpy_heads(net, obs.numpy())
        np.testing.assert_allclose(mu, numpy_mu, rtol=1e-4, atol=1e-5)

        def q_of(a, net=net, s=obs[:1]):
            return net(s, a[None])[0]

        hessian = torch.autograd.functional.hessian(q_of, actions[0]).detach()
        own = -hessian * net.action_scale[:, None] * net.action_scale
        np.testing.assert_allclose(own, P[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(own, own.T)
        assert torch.linalg.eigvalsh(own).min() > 0


def check_large_logits_stay_finite(script):
    for logit in 100.0, -100.0:
        nets = script.Networks(OBS, 17, -np.ones(17), np.ones(17), script.Args())
        with torch.no_grad():
            nets.qf1.fc_l.bias.fill_(logit)
            nets.qf1.fc_mu.bias.fill_(logit)
        q = nets.qf1(torch.randn(BATCH, OBS), torch.rand(BATCH, 17) * 2 - 1)
        q.square().mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in nets.qf1.parameters())


def check_steep_parabola(script):
    """Regressed on -c (a - 0.5)² in one state, the critic has its top there, however steep."""
    obs, actions = torch.ones(17, OBS), torch.linspace(-1, 1, 17)[:, None]
    for curvature in 400, 120, 54, 2:
        torch.manual_seed(0)
        net = script.Networks(OBS, 1, -np.ones(1), np.ones(1), script.Args()).qf1
        q = -curvature / 2 * (actions[:, 0] - 0.5) ** 2
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        for _ in range(200):
            optimizer.zero_grad()
            ((net(obs, actions) - q) ** 2).mean().backward()
            optimizer.step()
        assert net.heads(obs)[1][0].item() == pytest.approx(0.5, abs=0.01), curvature


CHECKS = [
    check_critic_loss_value,
    check_critic_gradient,
    check_advantage,
    check_large_logits_stay_finite,
    check_steep_parabola,
]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(naf)


MUTANTS = {
    "no half": ("v - 0.5 *", "v -", "advantage"),
    "minimum at μ": ("v - 0.5 *", "v + 0.5 *", "advantage"),
    "LᵀL": ("u.unsqueeze(1) @ factor", "u.unsqueeze(1) @ factor.mT", "advantage"),
    "upper entries too": ("entries.tril(-1)", "entries", "advantage"),
    "diagonal alone": ("entries.tril(-1) + log", "log", "advantage"),
    "diagonal twice": ("entries.tril(-1)", "entries.tril()", "advantage"),
    "diagonal of any sign": ("log_diagonal.exp()", "log_diagonal", "advantage"),
    "diagonal not bounded": (".clamp(max=20)", "", "large_logits"),
    "diagonal of at most e²": (".clamp(max=20)", ".div(2).tanh().mul(2)", "steep"),
    "action not in its units": (" / self.action_scale  #", "  #", "advantage"),
    "μ out of bounds": ("torch.tanh(self.fc_mu(x))", "self.fc_mu(x)", "advantage"),
    "absolute value for square": (".square()", ".abs()", "advantage"),
    "one value a batch": (".sum((1, 2))", ".sum()", "advantage"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(naf, *MUTANTS[name], CHECKS)


def test_no_action_is_better_than_mu():
    """Over a grid of the whole action space, beyond its bounds, too."""
    nets, data, _ = setup(naf)
    grid = torch.cartesian_prod(*[torch.linspace(-9, 9, 61)] * ACT)
    with torch.no_grad():
        for s in data.observations[:, None]:
            best = nets.qf1(s, nets.actor(s))
            assert (nets.qf1(s.expand(61 * 61, OBS), grid) <= best).all()
