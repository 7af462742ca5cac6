"""watch.html in a real browser, opened from disk: its bodies and networks are those of Python."""

import importlib
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import RANDOM, ROOT
from safetensors.torch import load_file, save
from test_site import axe, sync_api
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import evaluate
import policies

KEPT = sorted((ROOT / "policies").glob("*.safetensors"))
POLE = ROOT / "policies" / "ppo_InvertedPendulum-v4_50000.safetensors"
LAPTOP = {"width": 1280, "height": 900}
PAGE = "watch.html#InvertedPendulum-v4/ppo@50000"


@pytest.fixture
def tab(tab):
    """Return a function that opens a page and waits until it plays."""

    open_plain = tab

    def open_page(name=PAGE, **options):
        page = open_plain(name, **{"viewport": LAPTOP} | options)
        if name.startswith("watch.html"):
            page.wait_for_function("document.querySelector('output')?.textContent")
        return page

    return open_page


@pytest.fixture(scope="module")
def shared(browser, site):
    """The page, opened once for all networks."""
    page = browser.new_page()
    page.goto(f"{site.as_uri()}/{PAGE}")
    page.wait_for_function("document.querySelector('output')?.textContent")
    yield page
    page.close()


PLAY = """async ([id, script, steps, starts, sigma]) => {
  await watch.open(id, script, steps);
  return starts.map(([qpos, qvel]) => {
    const first = watch.start(qpos, qvel), stepped = [];
    for (let n = 0; n < 30; n++) {
      const result = watch.step(sigma);
      stepped.push({ ...result, qpos: [...players[0].data.qpos], qvel: [...players[0].data.qvel] });
    }
    return { first, stepped };
  });
}"""


def open_policy(path):
    with evaluate.open_run(path, evaluate.Args((path,)), 1) as (_, envs, nets):
        return evaluate.read_about(path), envs.envs[0].unwrapped, nets


def starts(env):
    """Return three: positions and velocities."""
    found = []
    for seed in range(3):
        env.reset(seed=seed)
        found.append([env.data.qpos.tolist(), env.data.qvel.tolist()])
    return found


def check_physics(env, start, played, sigma, nets):
    """Give Python the page's actions: observations, states, rewards and ends are the page's; the
    page's actions are the actor's."""

    def near(value, expected, tolerance):
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)

    env.reset()
    env.set_state(*map(np.array, start))
    obs = env._get_obs()
    near(played["first"], obs, 1e-9)
    for step in played["stepped"]:
        if not sigma:
            with torch.no_grad():
                action = nets.actor(torch.as_tensor(obs)[None])[0].numpy()
            near(step["action"], action.clip(env.action_space.low, env.action_space.high), 1e-4)
        obs, reward, terminated, _, _ = env.step(np.float32(step["action"]))
        near(step["qpos"], env.data.qpos, 1e-6)
        near(step["qvel"], env.data.qvel, 1e-6 * max(1, abs(env.data.qvel).max()))
        near(step["observation"], obs, 1e-5)
        near(step["reward"], reward, 1e-5)
        assert step["terminated"] == terminated


def check_values(nets, obs, step):
    """What the instruments show is what the script's own networks say."""
    x, a = torch.tensor([obs]), torch.tensor([step["action"]]).float().requires_grad_()
    values, near = step["values"], {"rel": 1e-3, "abs": 1e-3}
    if hasattr(nets, "critic"):
        normalized = nets.actor.obs_normalizer(x)
        assert values["v"] == pytest.approx(nets.critic(normalized).item(), **near)
        policy = nets.actor.distribution(normalized)
    else:
        q = [getattr(nets, name) for name in ("qf1", "qf2") if hasattr(nets, name)]
        said = [net(x.float(), a) for net in q]
        assert values["q"] == pytest.approx([one.item() for one in said], **near)
        (gradient,) = torch.autograd.grad(said[0].sum(), a)
        assert values["gradient"] == pytest.approx(gradient[0].numpy(), **near)
        if hasattr(nets.qf1, "logits"):
            atoms = nets.qf1.logits(x.float(), a).softmax(-1)[0].detach().numpy()
            assert values["atoms"] == pytest.approx(atoms, abs=1e-3)
        if hasattr(nets.qf1, "heads"):
            assert values["v"] == pytest.approx(nets.qf1.heads(x)[0].item(), **near)
        if not hasattr(nets.actor, "distribution"):
            assert values.get("sigma") is None
            return
        policy = nets.actor.distribution(x).base_dist.base_dist
    assert values["mu"] == pytest.approx(policy.mean[0].detach().numpy(), **near)
    assert values["sigma"] == pytest.approx(policy.stddev[0].detach().numpy(), **near)


@pytest.mark.parametrize(
    "name", [path.stem for path in KEPT] + [f"{n}_{b}_7000" for n, b in RANDOM.items()]
)
def test_page_plays_as_python_does(shared, site, name):
    about, env, nets = open_policy(site.parent / "policies" / f"{name}.safetensors")
    page, begin = shared, starts(env)[: 3 if "7000" in name else 1]
    script = about["args"]["script"].removesuffix("_continuous.py")
    for sigma in (0, 0.5) if "7000" in name else (0,):
        where = [about["args"]["env_id"], script, about["result"]["step"], begin, sigma]
        for start, played in zip(begin, page.evaluate(PLAY, where), strict=True):
            check_physics(env, start, played, sigma, nets)
            obs = [played["first"], *(step["observation"] for step in played["stepped"])]
            for n in 0, 29:
                check_values(nets, obs[n], played["stepped"][n])


CURVES = """async ([id, script]) => {
  await watch.open(id, script, 7000);
  const player = players[0], { u, action } = player.choose(player.seen.mu.map(() => 0));
  return { obs: player.observation, action, ...along(player, u, 1) };
}"""


@pytest.mark.parametrize("name", RANDOM)
def test_curves_along_a_joint(shared, site, name):
    """Q of each critic with one action changed, their minimum or mean, and the policy's density."""
    _, _, nets = open_policy(site.parent / "policies" / f"{name}_{RANDOM[name]}_7000.safetensors")
    shown = shared.evaluate(CURVES, [RANDOM[name], name])
    x, found = torch.tensor([shown["obs"]]), {}
    curves = {label: np.array(points, float) for label, _, points, *_ in shown["curves"]}
    for label, critic in ("Q1", "qf1"), ("Q2", "qf2"):
        if hasattr(nets, critic):
            us = curves[label][:, 0]
            actions = torch.tensor([shown["action"]] * len(us))
            actions[:, 1] = torch.tensor(us)  # ±1 are the bounds of all three bodies
            with torch.no_grad():
                found[label] = getattr(nets, critic)(x.float().repeat(len(us), 1), actions).numpy()
    if name == "tqc":
        found["the mean"] = (found["Q1"] + found["Q2"]) / 2
    elif "Q2" in found:
        found["the smaller"] = np.minimum(found["Q1"], found["Q2"])
    if hasattr(nets.actor, "distribution"):
        us = torch.tensor(curves["π"][1:-1, 0])
        if hasattr(nets, "critic"):
            policy = nets.actor.distribution(nets.actor.obs_normalizer(x))
            density = Normal(policy.mean[0, 1], policy.stddev[0, 1])
        else:
            base = nets.actor.distribution(x).base_dist.base_dist
            density = TransformedDistribution(
                Normal(base.mean[0, 1], base.stddev[0, 1]), TanhTransform()
            )
        curves["π"] = curves["π"][1:-1]
        found["π"] = density.log_prob(us).exp().detach().numpy()
    assert curves.keys() == found.keys()
    for label, values in found.items():
        assert curves[label][:, 1] == pytest.approx(values, rel=1e-3, abs=1e-3), label


def test_a_copy_of_a_script_is_as_the_script(shared, site):
    """Its name does not say of which layers it is; an episode ends at its run's own limit."""
    body = RANDOM["ac_reparam"]
    path = site.parent / "policies" / f"ac_reparam_{body}_7000.safetensors"
    args = open_policy(path)[0]["args"] | {"script": "mine.py", "max_episode_steps": 3}
    mine = save(load_file(path), {"args": json.dumps(args)})
    page, see = shared, "() => (watch.start(...watch.at), [players[0].seen, watch.step().values.q])"
    page.evaluate("(body) => watch.open(body, 'ac_reparam', 7000)", body)
    page.evaluate("() => (watch.at = [[...players[0].data.qpos], [...players[0].data.qvel]])")
    seen = page.evaluate(see)
    own = "const policy = new Policy(Uint8Array.from(bytes).buffer)"
    page.evaluate(
        f"(bytes) => {{ {own}; return stage(policy.id, [{{ ...policy, policy }}]); }}", list(mine)
    )
    assert page.evaluate(see) == seen
    page.evaluate("() => { while (!players[0].over) watch.step(); }")
    assert page.evaluate("players[0].log.length") == 3


def test_a_whole_episode_returns_what_pythons_do(shared):
    (played,) = evaluate.main(evaluate.Args((POLE,), episodes=1))
    page = shared
    page.evaluate("watch.open('InvertedPendulum-v4', 'ppo', 50000)")
    page.evaluate("() => { while (!players[0].over) watch.step(); }")
    steps, total = page.evaluate("[players[0].log.length, players[0].return]")
    assert min(played["returns"]) <= total <= max(played["returns"])
    assert steps == 1000


@pytest.mark.parametrize(("body", "script"), [("Hopper-v4", "td3"), ("HalfCheetah-v4", "ddpg")])
def test_the_return_that_came(shared, body, script):
    """At an end, all of it; at the time limit, none of the steps whose return it cuts."""
    page = shared
    page.evaluate("([id, script]) => watch.open(id, script, 7000)", [body, script])
    page.evaluate("() => { while (!players[0].over) watch.step(); }")
    log, came = page.evaluate("[players[0].log, players[0].came()]")
    returns = [0]
    for step in reversed(log):
        returns.insert(0, step["reward"] + 0.99 * returns[0])
    left = 0 if body == "Hopper-v4" else 299  # 0.99^299 < 0.05
    assert came == pytest.approx(returns[: len(log) - left])
    assert page.evaluate("players[0].terminated") == (body == "Hopper-v4")


# ---- The page ----
def test_scene_is_in_the_address_and_keys_do_everything(tab):
    page = tab("watch.html#Hopper-v4/td3@7000/ac_reparam@7000?start=4")
    state = "[...players[1].data.qpos]"
    first = page.evaluate(state)
    assert page.evaluate("[...players[0].data.qpos]") == first, "both from the same start"
    page.keyboard.press("ArrowRight")
    one = page.evaluate(state)
    assert one != first
    page.keyboard.press("R")  # as with caps lock
    assert page.evaluate(state) == first
    page.keyboard.press("n")
    assert page.evaluate(state) != first
    assert "start=5" in page.url
    page.keyboard.press("d")
    assert page.evaluate("players.map((player) => player.push.force[0] > 0)") == [True, True]
    for key in "j", "e", "e", "ArrowUp", "s":
        page.keyboard.press(key)
    assert page.url.endswith(
        "#Hopper-v4/td3@7000/ac_reparam@7000?start=5&joint=2&noise=held&slow&epsilon=0,0.25,0"
    )
    page.keyboard.press("r")
    page.keyboard.press("ArrowRight")
    scene, after = page.url, page.evaluate(state)
    page.goto("about:blank")
    page.goto(scene)
    page.wait_for_function("document.querySelector('output')?.textContent")
    assert page.url == scene
    page.keyboard.press("ArrowRight")
    assert page.evaluate(state) == after
    page.keyboard.press("Space")
    page.wait_for_function("players[0].log.length > 3")
    page.keyboard.press("Space")
    assert page.inner_text("#play") == "Play"


def test_body_is_pushed_by_dragging_and_both_get_the_push(tab):
    page = tab("watch.html#HalfCheetah-v4/ddpg@7000/ddpg@7000")
    box = page.locator(".stage").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 40)
    page.evaluate("advance()")
    (fx, _, fz, *_), same = page.evaluate(
        "[players[0].push.force, `${players[0].push.force}` === `${players[1].push.force}`]"
    )
    assert fx > 0
    assert fz > 0
    assert same
    page.mouse.up()
    page.evaluate("advance()")
    assert page.evaluate("[...players[0].data.xfrc_applied].every((x) => x === 0)")
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate("location.hash = 'Hopper-v4/td3@7000'")  # while it is held
    page.wait_for_function("scene.id === 'Hopper-v4'")
    page.keyboard.press("Space")
    page.wait_for_function("players[0].log.length > 3")
    page.mouse.up()


def test_noise_is_the_scripts_own(tab):
    page = tab("watch.html#HalfCheetah-v4/ddpg@7000?noise=held&epsilon=1,-1,0,0,0,0")
    u, plain = page.evaluate("[0.1, 0].map((by) => players[0].choose([by, -by, 0, 0, 0, 0]).u)")
    assert page.evaluate("players[0].choose(noises(players[0])).u") == u != plain


SPOILT = {
    "cut": lambda good: good[:-100],
    "cut in its header": lambda good: good[:99],
    "empty": lambda good: b"",
    "text": lambda good: b"no weights at all, only letters, more than eight of them",
    "no metadata": lambda good: save({"a": torch.ones(3)}),
    "no networks": lambda good: save({"a": torch.ones(3)}, head(good)),
    "another body": lambda good: save(tensors(good), head(good, env_id="Hopper-v4")),
    "an unknown body": lambda good: save(tensors(good), head(good, env_id="Ant-v4")),
    "not a number": lambda good: save(
        {k: w * np.nan for k, w in tensors(good).items()}, head(good)
    ),
    "20 MB": lambda good: good + bytes(20_000_000),
}


def head(good, **changes):
    about = json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])["__metadata__"]
    return about | {"args": json.dumps(json.loads(about["args"]) | changes)}


def tensors(good):
    from safetensors.torch import load

    return load(good)


def test_spoilt_file_is_a_sentence_and_the_page_goes_on(tab, tmp_path):
    page, good = tab(), POLE.read_bytes()
    for what, spoil in SPOILT.items():
        path = tmp_path / f"{what}.safetensors"
        path.write_bytes(spoil(good))
        page.evaluate("$('said').textContent = ''")
        page.set_input_files("#own", path)
        sync_api.expect(page.locator("#said")).to_have_text(
            re.compile(r"^This can't be played: .+\.$")
        )
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("r")
        assert page.inner_text("#said") == ""
        page.keyboard.press("ArrowRight")
        assert page.evaluate("players[0].log.length") > 0, what


def test_file_of_ones_own_is_dropped_and_plays(tab):
    page = tab()
    page.evaluate(
        """(bytes) => {
          const data = new DataTransfer();
          data.items.add(new File([Uint8Array.from(bytes)], "mine 5%.safetensors"));
          dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        list(POLE.read_bytes()),
    )
    page.keyboard.press("Space")
    sync_api.expect(page.locator("figcaption")).to_contain_text("mine 5%.safetensors, 50,000 steps")
    page.wait_for_function("players[0].log.length > 3")
    page.reload()  # now it is not there
    page.wait_for_function("document.querySelector('output')?.textContent")
    sync_api.expect(page.locator("#said")).to_contain_text("no policy of mine 5-.safetensors")


def test_what_is_not_kept_is_a_sentence(tab, site):
    """And another policy is there, with what can be used of the address."""
    page = tab("watch.html#Hopper-v4/nothing?start=x&joint=0&noise=loud")
    text = "This can't be played: no policy of nothing on Hopper-v4 is kept."
    sync_api.expect(page.locator("#said")).to_have_text(text)
    assert page.url.endswith("?start=1&joint=1&noise=off")


def test_skip_link_leaves_the_scene(tab):
    page = tab("watch.html#Hopper-v4/td3@7000?start=4")
    page.focus(".skip")
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash === '#main'")
    page.keyboard.press("ArrowRight")
    assert "start=4" in page.url
    assert page.inner_text("#said") == ""


def test_axe_finds_nothing(tab):
    page = tab("watch.html#Walker2d-v4/svg0@7000/naf@7000")
    for scheme in "dark", "light":
        page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(page, options={"preload": False}).response["violations"]
        assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []


def test_nothing_is_wider_than_the_screen(tab):
    page = tab("watch.html#HalfCheetah-v4/d4pg@7000")
    for width in 375, 1280, 1920:
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if width > 1000:  # instruments stand beside the body
            assert page.locator(".along").bounding_box()["y"] < 500
    page.set_viewport_size({"width": 1280, "height": 720})
    for place in "ddpg@7000", "ddpg@7000/td3@50000":
        page.evaluate(f"location.hash = 'HalfCheetah-v4/{place}'")
        page.wait_for_function(f"location.hash.includes('{place}?')")
        box = page.locator(".time").last.bounding_box()
        assert box["y"] + box["height"] < 720


# ---- Elsewhere in the site ----
def test_slide_of_a_rung_plays(tab):
    page = tab("ddpg-td3.html#slides")
    page.keyboard.press("End")
    page.click("[data-scene]")
    frame = page.frame_locator("iframe")
    sync_api.expect(frame.locator("figcaption")).to_have_count(2)
    box = page.locator("iframe").bounding_box()
    assert box["y"] + box["height"] <= 900
    count = page.inner_text("#count")
    frame.locator("#play").click()
    page.keyboard.press("PageUp")  # as a presenter's clicker does
    page.wait_for_function(f"document.getElementById('count').textContent !== '{count}'")


SCENES = {
    "Hopper-v4/td3": "watch.html#Hopper-v4/td3",
    "Hopper-v4/td3@50000/td3?start=2": "watch.html#Hopper-v4/td3@50000/td3?start=2",
    "Hopper-v4/td3/ddpg": "",
    "Hopper-v4/td3@1000": None,
    "Hopper-v4/td3@many": None,
    "Hopper-v4/td4": None,
    "Hoper-v4/td3": None,
    "Hopper-v4": None,
}


@pytest.mark.parametrize("place", SCENES)
def test_link_to_a_scene(place):
    """It is text if a policy is not kept yet, and a fault if there is no such scene."""
    kept = [{"id": "Hopper-v4", "script": "td3", "steps": 50_000}]
    text = SimpleNamespace(policies=kept, scripts={"ddpg", "td3"})
    assert importlib.import_module("build").Text.scene(text, place) == SCENES[place]


# ---- What is kept ----
def test_sizes():
    def size(folder):
        return sum(path.stat().st_size for path in folder.glob("*"))

    pages = [ROOT / "lecture/site/watch.html", *(ROOT / "lecture/site/watch").glob("[!b]*.js")]
    assert sum(page.read_text().count("\n") for page in pages) <= 500
    assert size(ROOT / "lecture/site/mujoco") <= 3e6
    assert size(ROOT / "policies") <= 16e6


def test_readme_is_of_the_files():
    assert (ROOT / "policies" / "README.md").read_text() == policies.readme(ROOT / "policies")


def test_the_run_that_is_kept_is_the_median(tmp_path):
    for seed, score in enumerate([5.0, 9.0, 7.0, 1.0, 8.0]):
        run = tmp_path / f"{seed}"
        run.mkdir()
        args = {"script": "ddpg_continuous.py", "env_id": "Hopper-v4", "seed": seed}
        (run / "args.json").write_text(json.dumps(args))
        if seed != 4:
            (run / "result.json").write_text(json.dumps({"eval_mean": score}))
    assert [run.name for run, _ in policies.medians(tmp_path)] == ["0"]  # of 1, 5, 7, 9
    (tmp_path / "4" / "result.json").write_text(json.dumps({"eval_mean": 8.0}))
    assert [run.name for run, _ in policies.medians(tmp_path)] == ["2"]  # of 1, 5, 7, 8, 9


@pytest.mark.parametrize("worse", [False, True])
def test_half_precision_unless_it_is_worse(tmp_path, monkeypatch, worse):
    about, _, nets = open_policy(POLE)
    torch.save(nets.state_dict(), tmp_path / "model.pt")
    play = evaluate.main

    def main(args):  # what is saved, then what is in half precision
        (played,) = play(args)
        return [played | {"mean": played["mean"] - 1e6 * (worse and args.save is None)}]

    monkeypatch.setattr(policies, "EPISODES", 1)
    monkeypatch.setattr(policies.evaluate, "main", main)
    policies.keep(about["args"], tmp_path / "model.pt", 7, tmp_path)
    for name, w in load_file(tmp_path / "ppo_InvertedPendulum-v4_7.safetensors").items():
        expected = nets.state_dict()[name]
        if w.dim() == 2 and not worse:
            expected = expected.half()
        assert w.dtype == expected.dtype
        assert torch.equal(w, expected)
