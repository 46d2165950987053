"""AUTOMATIC1111's img2img with the published client: sizes, masks, fills, and the masked part drawn alone."""

import base64
import io
import warnings

import httpx2
import numpy as np
import pytest
from fake_engine import FakeEngine
from PIL import Image
from server import serving

from laur.input.image import InputPicture, read_picture
from laur.input.inpaint import filled
from laur.render.metadata import read

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import webuiapi


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("img2img"), FakeEngine(seconds=0.01)) as running:
        running.until_ready()
        yield running


@pytest.fixture
def webui(server):
    api = webuiapi.WebUIApi(port=server.port)
    yield api
    api.session.close()


@pytest.fixture
def begun(server):
    """What the last admitted job began from, as (picture, mask or None, recipe)."""
    recipes = []
    submit = server.engine.submit
    server.engine.submit = lambda plan, recipe, *more: (recipes.append(recipe), submit(plan, recipe, *more))[1]

    def look(which=-1):
        recipe, inputs = recipes[which], server.app.state.service.inputs
        mask = None if recipe.mask is None else inputs.load("default", recipe.mask).pixels
        return inputs.load("default", recipe.image).pixels, mask, recipe

    look.recipes = recipes
    yield look
    server.engine.submit = submit


def picture(width=48, height=32, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def mask_of(box, width=48, height=32):
    pixels = np.zeros((height, width), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(pixels)


def body(**fields):
    file = io.BytesIO()
    picture().save(file, "PNG")
    return {"init_images": [base64.b64encode(file.getvalue()).decode()], "prompt": "a fox", "steps": 3, **fields}


def test_the_client_draws_over_a_picture(webui, begun):
    result = webui.img2img(
        images=[picture()], prompt="a fox", width=48, height=32, seed=9, steps=3, denoising_strength=0.6, batch_size=2,
        cfg_scale=1.5, sampler_name="LCM",
    )  # fmt: skip
    assert [image.size for image in result.images] == [(48, 32)] * 2
    assert (result.info["all_seeds"], result.info["denoising_strength"]) == ([9, 10], 0.6)
    assert (result.parameters["init_images"], result.parameters["mask"]) == (None, None)
    pixels, mask, recipe = begun()
    np.testing.assert_array_equal(pixels, np.asarray(picture()))
    assert (mask, recipe.strength, recipe.steps) == (None, 0.6, 3)
    assert recipe.seed in {9, 10}  # of two jobs, whichever came last to the engine
    assert recipe.image == InputPicture(np.asarray(picture())).ref


def test_resize_modes(webui, begun):
    def begin(mode):
        webui.img2img(images=[picture()], prompt="a fox", width=64, height=64, resize_mode=mode, steps=3)
        return begun()

    stretched, _, recipe = begin(0)
    np.testing.assert_array_equal(stretched, np.asarray(picture().resize((64, 64), Image.Resampling.LANCZOS)))
    assert (recipe.width, recipe.height) == (64, 64)
    cropped, _, recipe = begin(1)
    assert (cropped.shape, recipe.width, recipe.height) == ((32, 48, 3), 64, 64)
    inset, _, _ = begin(2)
    assert inset.shape == (64, 64, 3)
    assert (inset[:10] == inset[10]).all()
    with pytest.raises(RuntimeError, match="latent upscale"):
        begin(3)


def test_the_whole_picture_with_a_mask(webui, begun):
    hole = mask_of((0, 0, 24, 32))
    common = {"images": [picture()], "prompt": "a fox", "width": 48, "height": 32, "steps": 3}
    webui.img2img(**common, mask_image=hole, inpaint_full_res=False, mask_blur=7, inpainting_fill=1)
    pixels, mask, recipe = begun()
    np.testing.assert_array_equal(pixels, np.asarray(picture()))
    np.testing.assert_array_equal(mask, np.asarray(hole))
    assert (recipe.mask_blur, recipe.paste_back, recipe.strength) == (7.0, True, 0.75)
    webui.img2img(**common, mask_image=hole, inpaint_full_res=False, inpainting_fill=0)
    pixels, _, _ = begun()
    own = filled(InputPicture(np.asarray(picture())), InputPicture(np.asarray(hole))).pixels
    np.testing.assert_array_equal(pixels, own)
    assert (pixels[:, :24] != np.asarray(picture())[:, :24]).any()
    webui.img2img(**common, mask_image=hole, inpaint_full_res=False, inpainting_mask_invert=1)
    np.testing.assert_array_equal(begun()[1], 255 - np.asarray(hole))


def test_painted_strokes_are_a_mask(webui, begun):
    layer = np.zeros((32, 48, 4), np.uint8)
    layer[:, 24:] = (0, 0, 0, 255)
    webui.img2img(
        images=[picture()],
        prompt="a fox",
        width=48,
        height=32,
        mask_image=Image.fromarray(layer),
        inpaint_full_res=False,
    )
    np.testing.assert_array_equal(begun()[1], layer[:, :, 3])


def test_the_masked_part_alone_at_the_whole_size(webui, begun):
    """As clients ask for it by default: the answer is the picture in its own size, changed in the mask alone."""
    hole = mask_of((8, 8, 16, 16))
    result = webui.img2img(
        images=[picture()], prompt="a fox", width=64, height=64, mask_image=hole, mask_blur=0, seed=200, steps=3,
        inpaint_full_res_padding=4, inpainting_fill=1,
    )  # fmt: skip
    pixels, mask, recipe = begun()
    assert (pixels.shape, mask.shape, recipe.width, recipe.paste_back) == ((64, 64, 3), (64, 64), 64, False)
    part = picture().crop((4, 4, 20, 20)).resize((64, 64), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels, np.asarray(part))
    found, own, inside = np.asarray(result.image), np.asarray(picture()), np.asarray(hole) > 0
    assert found.shape == own.shape
    np.testing.assert_array_equal(found[~inside], own[~inside])
    assert (found[inside] == np.array([200, 5, 3])).all()
    assert result.info["infotexts"][0].startswith("a fox\nSteps: 3")


def test_the_file_of_a_part_says_its_parameters_and_no_recipe(server):
    file = io.BytesIO()
    mask_of((8, 8, 16, 16)).save(file, "PNG")
    wish = body(mask=base64.b64encode(file.getvalue()).decode(), include_init_images=True)
    said = httpx2.post(f"{server.url}/sdapi/v1/img2img", json=wish, timeout=20).json()
    assert said["parameters"]["mask"] == wish["mask"]
    found = read(base64.b64decode(said["images"][0]))
    assert (found.recipe, found.pixels.shape) == (None, (32, 48, 3))
    assert found.parameters.startswith("a fox\n")


def test_several_pictures_and_rounds(webui, begun):
    two = [picture(seed=1), picture(seed=2)]
    result = webui.img2img(images=two, prompt="a fox", width=48, height=32, batch_size=2, n_iter=2, seed=5, steps=3)
    assert result.info["all_seeds"] == [5, 6, 7, 8]
    found = sorted((recipe.seed, recipe.image) for recipe in begun.recipes)
    refs = [InputPicture(np.asarray(image)).ref for image in two]
    assert found == list(zip([5, 6, 7, 8], refs * 2, strict=True))


def test_prompts_may_be_empty(webui, begun):
    webui.img2img(images=[picture()], width=48, height=32, steps=3)
    assert begun()[2].prompt == "a picture"


def test_sizes_left_out_are_the_pictures(server, begun):
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        assert http.post("/sdapi/v1/img2img", json=body()).status_code == 200
        assert (begun()[2].width, begun()[2].height) == (48, 32)
        assert http.post("/sdapi/v1/img2img", json=body(width=96)).status_code == 200
        assert (begun()[2].width, begun()[2].height) == (96, 64)


def test_what_is_not_offered_is_said_in_one_line(server):
    mask = body()["init_images"][0]
    black = io.BytesIO()
    mask_of((0, 0, 0, 0)).save(black, "PNG")
    other = io.BytesIO()
    mask_of((0, 0, 4, 4), 32, 32).save(other, "PNG")
    cases = [
        ({"resize_mode": 3}, 422, "latent upscale"),
        ({"mask": mask, "inpainting_fill": 2}, 422, "latent noise"),
        ({"mask": base64.b64encode(black.getvalue()).decode()}, 422, "black all over"),
        ({"mask": base64.b64encode(other.getvalue()).decode()}, 422, "proportions"),
        ({"init_images": []}, 422, "init_images"),
        ({"init_images": ["?"]}, 422, "not base64"),
        ({"init_images": [mask[:200]]}, 422, "damaged"),
        ({"init_images": ["http://127.0.0.1/a.png"]}, 422, "--image-urls"),
        ({"init_images": [mask] * 3}, 422, "batch_size"),
        ({"width": 16384, "height": 16384}, 413, "pixels"),
        ({"denoising_strength": 1.5}, 422, "denoising_strength"),
        ({"prompt": "refuse"}, 500, "NaN"),
    ]
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        for fields, status, said in cases:
            answer = http.post("/sdapi/v1/img2img", json=body(**fields))
            assert answer.status_code == status, answer.text
            assert said in answer.json()["detail"]
            assert "\n" not in answer.json()["detail"]
        large = io.BytesIO()
        Image.new("RGB", (8000, 4000)).save(large, "PNG")
        wish = {"image": base64.b64encode(large.getvalue()).decode()}
        assert http.post("/sdapi/v1/png-info", json=wish).status_code == 422


def test_the_same_again_is_there(server, begun):
    wish = body(seed=77)
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        first, second = [http.post("/sdapi/v1/img2img", json=wish).json() for _ in range(2)]
    assert first["images"] == second["images"]
    assert len(begun.recipes) == 1
    assert read(base64.b64decode(first["images"][0])).recipe.image == read_picture(picture()).ref
