"""NAF: its quadratic by an explicit double loop, its loss and gradients by hand, broken copies."""

import numpy as np
import pytest
import torch
from test_losses import (
    ACT,
    BATCH,
    HIGH,
    LOW,
    OBS,
    assert_caught,
    finite_difference,
    layer,
    setup,
    steepest,
)

import naf_continuous as naf


def numpy_heads(net, obs):
    """Return V(s), μ(s) and P(s), the last by hand from L: lower triangle, positive diagonal."""
    dim, low, high = (
        len(net.action_low),
        net.action_low.numpy(),
        net.action_high.numpy(),
    )
    x = np.maximum(layer(np.maximum(layer(obs, net.fc1), 0), net.fc2), 0)
    mu = np.tanh(layer(x, net.fc_mu)) * (high - low) / 2 + (high + low) / 2
    entries = layer(x, net.fc_l).reshape(-1, dim, dim)
    P = np.zeros_like(entries)
    for n in range(len(obs)):
        L = np.zeros((dim, dim))
        for i in range(dim):
            L[i, i] = np.exp(2 * np.tanh(entries[n, i, i] / 2))
            for j in range(i):
                L[i, j] = entries[n, i, j]
        P[n] = L @ L.T
    return layer(x, net.fc_v)[:, 0], mu, P


def numpy_q(net, obs, actions):
    """Q(s, a) = V(s) - ½ Σ_i Σ_j u_i P_ij u_j, u = a - μ in units of half the action range."""
    v, mu, P = numpy_heads(net, obs)
    u = (actions - mu) / net.action_scale.numpy()
    q = v.copy()
    for n in range(len(obs)):
        for i in range(u.shape[1]):
            for j in range(u.shape[1]):
                q[n] -= 0.5 * u[n, i] * P[n, i, j] * u[n, j]
    return q


def numpy_target(nets, data, gamma):
    v, _, _ = numpy_heads(nets.qf1_target, data.next_observations.numpy())
    return data.rewards.numpy()[:, 0] + gamma * (1 - data.dones.numpy()[:, 0]) * v


def numpy_loss(nets, data, y):
    return ((numpy_q(nets.qf1, data.observations.numpy(), data.actions.numpy()) - y) ** 2).mean()


def check_critic_loss_value(script):
    nets, data, args = setup(script)
    expected = numpy_loss(nets, data, numpy_target(nets, data, args.gamma))
    assert script.critic_loss(nets, data, args)[0].item() == pytest.approx(expected, rel=1e-9)


def check_critic_gradient(script):
    """All three heads learn from one loss; the target network does not move."""
    nets, data, args = setup(script)
    nets.qf1_target.requires_grad_(True)
    script.critic_backward(nets, data, args)
    y = numpy_target(nets, data, args.gamma)
    net = nets.qf1
    for weight in net.fc_v.bias, net.fc_mu.weight, net.fc_l.weight, net.fc1.weight:
        index = steepest(weight)
        slope = finite_difference(weight, index, lambda: numpy_loss(nets, data, y))
        assert weight.grad[index].item() == pytest.approx(slope, rel=1e-4)
    assert all(parameter.grad is None for parameter in nets.qf1_target.parameters())


def random_net(script, dim):
    """Return a critic of uneven bounds whose L is far from diagonal, states and actions."""
    torch.manual_seed(dim)
    low, high = -1 - np.arange(dim), 1 + 2.0 * np.arange(dim)
    net = script.Networks(OBS, dim, low, high).double().qf1
    with torch.no_grad():
        net.fc_l.weight.mul_(5)
    actions = torch.rand(BATCH, dim).double() * torch.tensor(high - low) + torch.tensor(low)
    return net, torch.randn(BATCH, OBS).double(), actions


def check_advantage(script):
    """By a double loop; P is symmetric, positive definite and minus the Hessian of Q."""
    for dim in 1, 3, 17:
        net, obs, actions = random_net(script, dim)
        with torch.no_grad():
            q, v, mu = net(obs, actions), net.heads(obs)[0], net(obs)
            np.testing.assert_allclose(q, numpy_q(net, obs.numpy(), actions.numpy()), rtol=1e-9)
            assert (q < v).all()
            torch.testing.assert_close(net(obs, mu), v)
        _, numpy_mu, P = numpy_heads(net, obs.numpy())
        np.testing.assert_allclose(mu, numpy_mu)
        for n in range(2):

            def q_of(a, net=net, s=obs[n : n + 1]):
                return net(s, a[None])[0]

            hessian = torch.autograd.functional.hessian(q_of, actions[n]).detach()
            own = -hessian * net.action_scale[:, None] * net.action_scale
            np.testing.assert_allclose(own, P[n], rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(own, own.T)
            assert torch.linalg.eigvalsh(own).min() > 0


def check_large_logits_stay_finite(script):
    for logit in 20.0, -20.0:
        nets = script.Networks(OBS, 17, -np.ones(17), np.ones(17))
        with torch.no_grad():
            nets.qf1.fc_l.bias.fill_(logit)
            nets.qf1.fc_mu.bias.fill_(logit)
        q = nets.qf1(torch.randn(BATCH, OBS), torch.rand(BATCH, 17) * 2 - 1)
        q.mean().backward()
        assert q.isfinite().all()
        assert q.abs().max() < 1e7
        assert all(parameter.grad.isfinite().all() for parameter in nets.qf1.parameters())
        assert nets.qf1.heads(torch.zeros(1, OBS))[2].diagonal(dim1=1, dim2=2).min() > 0.1


CHECKS = [
    check_critic_loss_value,
    check_critic_gradient,
    check_advantage,
    check_large_logits_stay_finite,
]


@pytest.mark.parametrize("check", CHECKS)
def test_check_holds(check):
    check(naf)


MUTANTS = {
    "no detach": ("with torch.no_grad():\n        # y", "if True:\n        # y", "gradient"),
    "no terminal mask": ("1 - data.dones.flatten()", "1", "loss_value"),
    "online critic as target": ("nets.qf1_target.heads", "nets.qf1.heads", "loss_value"),
    "no discount": ("not_done * args.gamma", "not_done", "loss_value"),
    "no half": ("v - 0.5 *", "v -", "advantage"),
    "minimum at μ": ("v - 0.5 *", "v + 0.5 *", "advantage"),
    "LᵀL": ("u.unsqueeze(1) @ factor", "u.unsqueeze(1) @ factor.mT", "advantage"),
    "upper entries too": ("entries.tril(-1)", "entries", "advantage"),
    "diagonal alone": ("entries.tril(-1) + log", "log", "advantage"),
    "diagonal twice": ("entries.tril(-1)", "entries.tril()", "advantage"),
    "diagonal of any sign": ("log_diagonal.exp()", "log_diagonal", "advantage"),
    "diagonal not bounded": (
        "2 * torch.tanh(entries.diagonal(dim1=1, dim2=2) / 2)",
        "entries.diagonal(dim1=1, dim2=2)",
        "large_logits",
    ),
    "action not in its units": (" / self.action_scale  #", "  #", "advantage"),
    "μ out of bounds": ("torch.tanh(self.fc_mu(x))", "self.fc_mu(x)", "advantage"),
    "absolute value for square": (".square()", ".abs()", "advantage"),
    "one value a batch": (".sum((1, 2))", ".sum()", "advantage"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_copy_is_caught(name):
    assert_caught(naf, *MUTANTS[name], CHECKS)


def test_there_is_one_network_and_its_slow_copy():
    nets, data, _ = setup(naf)
    assert nets.actor is nets.qf1
    assert {name.split(".")[0] for name, _ in nets.named_parameters()} == {"qf1", "qf1_target"}
    actions = nets.actor(data.observations)
    assert actions.shape == (BATCH, ACT)
    assert (actions.detach().numpy() > LOW).all()
    assert (actions.detach().numpy() < HIGH).all()


def test_no_action_is_better_than_mu():
    """Over a grid of the whole action space, beyond its bounds, too."""
    nets, data, _ = setup(naf)
    grid = torch.cartesian_prod(*[torch.linspace(-9, 9, 61).double()] * ACT)
    for s in data.observations[:, None]:
        best = nets.qf1(s, nets.qf1(s))
        assert (nets.qf1(s.expand(61 * 61, OBS), grid) <= best).all()
