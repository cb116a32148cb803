"""Where rays meet solids, against implicit functions, closed forms and brute force, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mtlsuite.data.rendering import (
    Box,
    Camera,
    Cone,
    Cylinder,
    Lantern,
    Scene,
    Sphere,
    Sun,
    Thing,
    View,
    compose,
)
from mtlsuite.data.rendering.materials import Noise

GREY = Noise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0)
CENTRE = (0.3, -0.2, 0.5)
SHAPES = {
    "sphere": Sphere(CENTRE, 0.8),
    "box": Box(CENTRE, (0.7, 0.4, 0.9), yaw=0.6),
    "cylinder": Cylinder(CENTRE, radius=0.6, half=0.8),
    "flat cylinder": Cylinder(CENTRE, radius=1.5, half=0.1),
    "cone": Cone(CENTRE, radius=0.7, half=0.9),
    "flat cone": Cone(CENTRE, radius=1.3, half=0.4),
}


def implicit(shape, points):
    """Negative inside, zero on the surface, written down apart from the code under test."""
    x, y, z = (points - np.array(shape.centre)).T
    if isinstance(shape, Sphere):
        return np.sqrt(x**2 + y**2 + z**2) - shape.radius
    if isinstance(shape, Box):
        turned = (
            x * math.cos(shape.yaw) - z * math.sin(shape.yaw),
            y,
            x * math.sin(shape.yaw) + z * math.cos(shape.yaw),
        )
        return np.max([np.abs(c) - h for c, h in zip(turned, shape.half, strict=True)], axis=0)
    if isinstance(shape, Cylinder):
        return np.maximum(np.hypot(x, z) - shape.radius, np.abs(y) - shape.half)
    side = np.hypot(x, z) - shape.radius * (shape.half - y) / (2 * shape.half)
    return np.maximum(side, -shape.half - y)


def random_rays(n, seed=0):
    rng = np.random.default_rng(seed)
    origins = rng.normal(size=(n, 3)) * 2.5
    directions = np.array(CENTRE) + rng.normal(size=(n, 3)) * 0.8 - origins
    return origins, directions * rng.uniform(0.2, 3, size=(n, 1))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_entry_is_the_first_point_of_the_ray_inside(shape):
    origins, directions = random_rays(800)
    outside = implicit(shape, origins) > 0
    origins, directions = origins[outside], directions[outside]
    t = shape.intersect(origins, directions)
    hit = np.isfinite(t)
    assert 100 < hit.sum() < len(hit) - 50  # the rays put both cases to the test
    surface = origins[hit] + t[hit, None] * directions[hit]
    np.testing.assert_allclose(implicit(shape, surface), 0, atol=1e-12)
    assert (t[hit] > 0).all()

    end = np.where(hit, t * (1 - 1e-9), 60.0)
    for fraction in np.linspace(0, 1, 3000):
        assert (implicit(shape, origins + (fraction * end)[:, None] * directions) > -1e-12).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_ray_that_starts_inside_never_enters(shape):
    origins = np.array(CENTRE) + np.random.default_rng(1).uniform(-0.8, 0.8, size=(400, 3))
    origins = origins[implicit(shape, origins) < -1e-6]
    assert len(origins) > 10
    directions = np.random.default_rng(2).normal(size=origins.shape)
    assert np.isinf(shape.intersect(origins, directions)).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rays_along_the_axes(shape):
    ways = np.vstack([np.eye(3), -np.eye(3)])
    t = shape.intersect(np.array(CENTRE) - 5 * ways, ways)
    np.testing.assert_allclose(implicit(shape, np.array(CENTRE) + (t - 5)[:, None] * ways), 0, atol=1e-6)
    assert np.isinf(shape.intersect(np.array(CENTRE) - 5 * ways, -ways)).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_normals_are_the_gradient_of_the_implicit_function(shape):
    origins, directions = random_rays(800)
    t = shape.intersect(origins, directions)
    points = (origins + t[:, None] * directions)[np.isfinite(t)]
    steps = 1e-6 * np.eye(3)
    gradient = np.stack([implicit(shape, points + s) - implicit(shape, points - s) for s in steps], axis=1)
    length = np.linalg.norm(gradient, axis=1, keepdims=True)
    normals = shape.to_world(shape.normals(shape.to_local(points)))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-12)
    agree = np.isclose(normals, gradient / length, atol=1e-5).all(axis=1)
    assert agree.mean() > 0.995  # a point within a step of an edge has no gradient


def view_of(*shapes, camera=None, size=(48, 64)):
    things = [Thing(shape, label + 1, GREY) for label, shape in enumerate(shapes)]
    return View(Scene(camera or Camera(1.5, -0.2, 1.1), things), *size)


def unproject(view):
    """Points in the camera frame from depth alone, by the pinhole formula."""
    height, width = view.size
    focal = max(height, width) / 2 / math.tan(view.scene.camera.field / 2)
    i, j = np.indices(view.size)
    x, y = (j - (width - 1) / 2) / focal, -(i - (height - 1) / 2) / focal
    return view.depth[..., None] * np.stack([x, y, -np.ones(view.size)], axis=-1)


def test_depth_of_a_sphere_is_the_closed_form():
    camera, radius, away = Camera(0.0, 0.0, 0.9), 0.7, 4.0
    view = view_of(Sphere((0.0, 0.0, -away), radius), camera=camera, size=(41, 61))
    rays = view.rays
    square = (rays**2).sum(-1)  # |D ray - centre| = r; the centre lies on the axis: D away is the product
    inside = away**2 - square * (away**2 - radius**2)
    expected = np.where(inside >= 0, (away - np.sqrt(np.maximum(inside, 0))) / square, 0)
    np.testing.assert_allclose(view.depth, expected, atol=1e-12)
    assert view.depth[20, 30] == pytest.approx(away - radius, abs=1e-12)
    np.testing.assert_allclose(view.normals[20, 30], [0, 0, 1], atol=1e-12)


def test_depth_and_normals_of_the_ground_are_the_closed_form():
    camera = Camera(1.7, -0.3, 1.0)
    view = view_of(Cylinder((0.0, -0.5, 0.0), radius=1000.0, half=0.5), camera=camera)
    points = unproject(view)[view.hit]
    up = np.array([0.0, math.cos(-0.3), -math.sin(-0.3)])  # the world's up as the camera sees it
    np.testing.assert_allclose(points @ up, -1.7, atol=1e-9)
    np.testing.assert_allclose(view.normals[view.hit], np.broadcast_to(up, points.shape), atol=1e-12)
    assert view.hit[-1].all()
    assert not view.hit[0].all() or camera.pitch < -0.5


def test_depth_of_an_upright_box_is_constant_on_its_front():
    view = view_of(Box((0.0, 0.0, -5.0), (1.0, 1.0, 0.5)), camera=Camera(0.0, 0.0, 1.0), size=(40, 40))
    np.testing.assert_allclose(view.depth[view.hit], 4.5, atol=1e-12)
    half = 1.0 / 4.5 * 20 / math.tan(0.5)  # half its size in pixels
    centres = np.abs(np.arange(40) - 19.5) < half
    assert (view.hit == np.outer(centres, centres)).all()


def test_the_nearer_thing_hides_the_other_whatever_their_order():
    near, far = Sphere((0.0, 1.5, -3.0), 0.5), Box((0.0, 1.5, -6.0), (2.0, 2.0, 0.5))
    one, other = view_of(near, far), view_of(far, near)
    np.testing.assert_array_equal(one.depth, other.depth)
    alone = view_of(near)
    np.testing.assert_array_equal(one.label == 1, alone.hit)


def test_pixel_centres_do_not_depend_on_the_resolution():
    scene = compose(np.random.default_rng(3))
    small, large = View(scene, 24, 32), View(scene, 72, 96)
    np.testing.assert_array_equal(small.label, large.label[1::3, 1::3])
    np.testing.assert_allclose(small.depth, large.depth[1::3, 1::3], rtol=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_normals_of_a_scene_are_unit_and_face_the_camera(seed):
    view = View(compose(np.random.default_rng(seed)), 48, 64)
    assert view.hit.any()
    np.testing.assert_allclose(np.linalg.norm(view.normals[view.hit], axis=-1), 1, atol=1e-12)
    assert ((view.normals * unproject(view)).sum(-1)[view.hit] < 1e-9).all()
    assert (view.depth[view.hit] > 0).all()
    assert (view.normals[~view.hit] == 0).all()
    assert (view.depth[~view.hit] == 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_normals_of_a_scene_agree_with_differences_of_its_points(seed):
    view = View(compose(np.random.default_rng(seed)), 96, 128)
    points, normals = unproject(view), view.normals
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    measured = np.cross(down, across)
    measured /= np.maximum(np.linalg.norm(measured, axis=-1, keepdims=True), 1e-12)
    around = [normals[1 + a : 95 + a, 1 + b : 127 + b] for a, b in ((0, 1), (0, -1), (1, 0), (-1, 0))]
    middle = normals[1:-1, 1:-1]
    flat = np.all([(other * middle).sum(-1) > 1 - 1e-9 for other in around], axis=0)
    same = (measured * middle).sum(-1)[flat]
    assert flat.mean() > 0.4
    assert (same > 0.999).mean() > 0.97  # parallel faces one behind the other look flat, but are not
    curved = view.label[1:-1, 1:-1] == 4
    neighbours = [
        view.label[1 + a : 95 + a, 1 + b : 127 + b] == 4 for a, b in ((0, 1), (0, -1), (1, 0), (-1, 0))
    ]
    inner = curved & np.all(neighbours, axis=0) & np.all([(o * middle).sum(-1) > 0.9 for o in around], axis=0)
    if inner.any():
        assert np.median((measured * middle).sum(-1)[inner]) > 0.98


def test_a_box_throws_the_shadow_of_its_outline():
    box, ground = Box((0.3, 1.0, -4.0), (0.6, 0.2, 0.4)), Cylinder((0.0, -0.5, 0.0), radius=50.0, half=0.5)
    view = view_of(ground, box, camera=Camera(1.6, -0.4, 1.0))
    direction = np.array([0.3, 0.8, 0.2]) / np.linalg.norm([0.3, 0.8, 0.2])
    lit = view.lit(Sun(tuple(direction)))
    on_ground = view.label == 1
    points = np.array([0, 1.6, 0]) + view.rays * view.depth[..., None]
    shadow = np.zeros(view.size, dtype=bool)
    for t in np.linspace(0.5, 2.0, 2000):  # walk towards the sun: is the walker ever in the box?
        shadow |= implicit(box, (points + t * direction).reshape(-1, 3)).reshape(view.size) < 0
    assert (on_ground & shadow).any()
    np.testing.assert_allclose(lit[on_ground & shadow], 0)
    assert np.isclose(lit[on_ground & ~shadow], direction[1]).mean() > 0.995  # walked past a corner at most
    assert (lit[~view.hit] == 0).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_convex_solid_throws_no_shadow_on_itself(shape):
    camera, direction = Camera(0.0, -0.1, 1.0), (0.48, 0.64, 0.6)
    view = view_of(replace(shape, centre=(0.3, -0.9, -4.0)), camera=camera)
    cosine = view.normals @ camera.rotation.T @ np.array(direction)
    assert view.hit.sum() > 50
    np.testing.assert_allclose(view.lit(Sun(direction)), np.maximum(cosine, 0), atol=1e-12)


def test_a_lantern_fades_with_distance_and_stops_at_its_own_place():
    ground, above = Cylinder((0.0, -0.5, 0.0), radius=9.0, half=0.5), Sphere((0.0, 5.0, -3.0), 1.0)
    view = view_of(ground, above, camera=Camera(1.6, -0.6, 0.9))
    lit = view.lit(Lantern((0.0, 2.0, -3.0), reach=2.0))  # the sphere hangs behind the lantern: no shadow
    points = np.array([0, 1.6, 0]) + view.rays * view.depth[..., None]
    way = np.array([0.0, 2.0, -3.0]) - points
    distance = np.linalg.norm(way, axis=-1)
    ground_pixels = view.label == 1
    expected = (2.0 / distance / (1 + (distance / 2) ** 2))[ground_pixels]
    np.testing.assert_allclose(lit[ground_pixels], expected, rtol=1e-9)
