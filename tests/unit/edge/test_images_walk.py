"""What a chat's parts bring along or point at."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from edge.errors import Problem
from edge.images_data import ImageRules
from edge.images_hosts import parse_hosts
from edge.images_walk import BRACKETS_MAX, VALUES_MAX, Remote, remotes_in, with_texts
from edge.openai_bodies import ChatBody, decode_chat
from tests.pictures import MEDIA_TYPES, data_uri, image_part, picture, png_that_claims, user

RULES = ImageRules(4, 100_000, 1_000_000, parse_hosts("img.test"))
PNG = data_uri(picture("PNG"))


def check(messages: Any, rules: ImageRules = RULES) -> list[Remote] | Problem:
    body = decode_chat(json.dumps({"messages": messages}).encode())
    assert isinstance(body, ChatBody)
    return remotes_in(body.messages, rules)


def problem(messages: Any, rules: ImageRules = RULES) -> Problem:
    found = check(messages, rules)
    assert isinstance(found, Problem)
    assert found.row.status == 400
    return found


def urls(messages: Any) -> list[str]:
    found = check(messages)
    assert not isinstance(found, Problem), found
    return [remote.target.path for remote in found]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "http://10.0.0.1/ is a text"}],
        [{"role": "assistant", "content": None}, {"role": "assistant"}],
        [{"role": "user", "content": [["a list in a list"], [["and one in that"]]]}],
        user("http://10.0.0.1/", "file:///etc/passwd", 'data:image/png;base64,!!'),
        [{"role": "user", "content": ["http://10.0.0.1/", {"type": "refusal", "refusal": "s3://b"}]}],
        user({"type": "thinking", "thinking": "http://a"}, {"type": "image_url", "image_url": None, "uuid": "1"}),
        user({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
        user({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}),
        user({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}),
        [{"role": "user", "content": "x", "tool_calls": [{"url": "https://a.b/"}], "url": "https://a.b/"}],
    ],
)  # fmt: skip
def test_what_engines_may_be_given(messages: Any) -> None:
    assert urls(messages) == []


@pytest.mark.parametrize(("kind", "media_type"), MEDIA_TYPES.items())
def test_images_of_every_kind(kind: str, media_type: str) -> None:
    image = picture(kind, 70, 30)
    assert urls(user(image_part(data_uri(image, media_type)), "what is this?")) == []
    assert urls(user(image_part(data_uri(image, media_type.upper()).replace("data:", "DATA:")))) == []
    assert urls(user({"image_url": data_uri(image, media_type), "uuid": "1"})) == []


def test_a_jpeg_may_be_called_jpg_as_many_do() -> None:
    assert urls(user(image_part(data_uri(picture("JPEG"), "image/jpg")))) == []


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_base64_of_any_length(padding: int) -> None:
    image = picture("PNG") + bytes((-len(picture("PNG")) - padding) % 3)
    assert data_uri(image).count("=") == padding
    assert urls(user(image_part(data_uri(image)))) == []


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,x",
        "data:image/png",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png,rawbytes",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/tiff;base64,SUkqAA==",
        "data:text/html;base64,PGI+",
        "data:image/png;charset=x;base64," + PNG.partition(",")[2],
        " " + PNG,
        PNG + " ",
        PNG[:-1] + "\n" + PNG[-1],
        PNG.replace("+", "-").replace("/", "_"),
        PNG.rstrip("="),
        PNG + "====",
        PNG[:40] + "=" + PNG[41:],
        PNG[:40] + "é" + PNG[41:],
        PNG.partition(",")[2],
        data_uri(picture("PNG"), "image/jpeg"),
        data_uri(picture("GIF"), "image/png"),
        data_uri(b"not an image at all", "image/png"),
        data_uri(picture("PNG")[:20], "image/png"),
        "",
    ],
)
def test_what_is_no_image_is_named(url: str) -> None:
    found = problem([{"role": "system", "content": "x"}, *user("see", image_part(url))])
    assert (found.reason, found.param) == ("invalid_image", "messages[1].content[1].image_url")


def test_caps() -> None:
    assert urls(user(image_part(data_uri(png_that_claims(1000, 1000))))) == []
    bomb = problem(user(image_part(data_uri(png_that_claims(1000, 1001)))))
    assert "1000 x 1001 pixels" in bomb.message
    assert "1000000" in bomb.message
    frames = picture("GIF", 100, 100, frames=3)
    assert urls(user(image_part(data_uri(frames, "image/gif")))) == []
    found = problem(user(image_part(data_uri(frames, "image/gif"))), RULES._replace(pixels_max=29_999))
    assert "3 frames" in found.message
    padded = picture("PNG") + bytes(100_000 - len(picture("PNG")))
    assert urls(user(image_part(data_uri(padded)))) == []
    assert "100000" in problem(user(image_part(data_uri(padded + b"\0")))).message


def test_images_of_all_messages_count_also_those_to_fetch() -> None:
    parts = [image_part(PNG), image_part("https://img.test/a")]
    assert urls([*user(*parts), *user(*parts)]) == ["/a", "/a"]
    found = problem([*user(*parts), *user(*parts, "x", image_part(PNG))])
    assert (found.message, found.param) == (
        "a request may have at most 4 images",
        "messages[1].content[3].image_url",
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://other.test/a.png",
        "http://img.test/a.png",
        "https://127.0.0.1/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "HTTP://[::1]/",
        " https://img.test/a.png",
        "\thttps://img.test/a.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://img.test/a",
        "s3://bucket/a",
        "https:img.test",
        "//img.test/a.png",
        "/etc/passwd",
        "a.png",
        "javascript:1",
    ],
)
@pytest.mark.parametrize("rules", [RULES, RULES._replace(hosts=())])
def test_images_from_elsewhere_are_refused(url: str, rules: ImageRules) -> None:
    for part in (
        image_part(url),
        {"type": "image_url", "image_url": url},
        {"image_url": {"URL": url, "detail": "low"}},
        {"type": "input_image", "Image_URL": {"url": url}},
        {"type": "image_url", "image_url": {"url": PNG, "image_url": [url]}},
    ):
        found = problem(user(part), rules)
        assert found.reason == "invalid_image"
        assert "data: URI" in found.message
        assert found.param is not None
        assert found.param.lower() == "messages[0].content[0].image_url"


@pytest.mark.parametrize("url", ["https://img.test/a", "http://10.0.0.1/", "file:///etc/passwd", "a.mp4", ""])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "$"}},
        {"type": "audio_url", "audio_url": {"url": "$"}},
        {"video_url": "$", "uuid": "1"},
        {"type": "file", "file": {"file_url": "$"}},
        {"type": "image", "source": {"type": "url", "url": "$"}},
        {"type": "x", "x": {"y": [{"Some_URI": ["$"]}]}},
    ],
)
def test_nothing_but_images_is_ever_fetched(part: dict[str, Any], url: str) -> None:
    """A part that is unknown here may be known to some engine."""
    part = json.loads(json.dumps(part).replace("$", url))
    found = problem(user(part))
    assert (found.reason, found.message) == (
        "bad_request",
        "only data: URIs are accepted here: nothing is fetched",
    )


@pytest.mark.parametrize("text", ["http://10.0.0.1/", " \n FILE:///etc/passwd", "https:\\\\a.b", "gopher:/x"])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "$", "format": "wav"}},
        {"type": "file", "file": {"file_id": "$"}},
        {"type": "image", "image": "$"},
        {"type": "image_embeds", "image_embeds": {"a": "$"}},
        ["$"],
    ],
)
def test_no_other_field_may_hold_a_url(part: dict[str, Any], text: str) -> None:
    part = json.loads(json.dumps(part).replace('"$"', json.dumps(text)))
    assert problem(user(part)).reason == "bad_request"


def test_an_image_in_any_other_field_of_urls_is_looked_at_too() -> None:
    bomb = data_uri(png_that_claims(60_000, 60_000))
    assert problem(user({"type": "video_url", "video_url": {"url": bomb}})).reason == "invalid_image"


def test_content_that_is_one_part_and_no_list() -> None:
    assert problem([{"role": "user", "content": image_part("http://10.0.0.1/")}]).reason == "invalid_image"


def test_there_are_bounds_on_what_is_looked_through() -> None:
    assert urls(user({"x": [1] * (VALUES_MAX - 10)})) == []
    for content in ([{"x": [1] * VALUES_MAX}], [{"text": "[{" * (BRACKETS_MAX // 2)}]):
        found = problem([{"role": "user", "content": content}])
        assert (found.reason, found.message) == ("bad_request", "the messages have too many parts")
    half = [{"role": "user", "content": [{"x": [1] * (VALUES_MAX // 2)}]}]
    assert problem(half * 2).message == "the messages have too many parts"


def test_content_that_is_no_json_is_refused() -> None:
    body = decode_chat(b'{"messages":[{"role":"user","content":["\\ud800"]}]}')
    assert not isinstance(body, ChatBody) or isinstance(remotes_in(body.messages, RULES), Problem)


def test_only_the_url_is_rewritten() -> None:
    """Everything else keeps its spelling, the same URL in a text included."""
    raw = b"""{"top_p" : 1e0, "messages":
      [{"role":"user","content":"x"}, {"role":"user", "x":18446744073709551617, "content":[
        {"type":"text","text":"https:\\/\\/img.test/a \\u00e9"},
        {"type":"image_url", "image_url" : {"detail":"low" , "url": "https:\\/\\/img.test/a"}},
        {"image_url":"https://img.test/b", "n": 1.50}]}], "t": [1 , 2]}"""
    body = decode_chat(raw)
    assert isinstance(body, ChatBody)
    remotes = remotes_in(body.messages, RULES)
    assert not isinstance(remotes, Problem)
    assert [remote.target.path for remote in remotes] == ["/a", "/b"]
    whole = with_texts(raw, [(remote.path, b"data:%d" % at) for at, remote in enumerate(remotes)])
    expected = json.loads(raw)
    expected["messages"][1]["content"][1]["image_url"]["url"] = "data:0"
    expected["messages"][1]["content"][2]["image_url"] = "data:1"
    assert json.loads(whole) == expected
    for kept in (b"1e0", b"18446744073709551617", b"1.50", b"[1 , 2]", b'"https:\\/\\/img.test/a \\u00e9"'):
        assert kept in whole


def test_base64_is_read_where_it_is_needed() -> None:
    """At every offset in its groups of four."""
    for before in range(6):
        jpeg = picture("JPEG", 70, 30, comment=b"x" * before)
        assert base64.b64decode(data_uri(jpeg).partition(",")[2]) == jpeg
        assert urls(user(image_part(data_uri(jpeg, "image/jpeg")))) == []
        assert (
            "70 x 30"
            in problem(
                user(image_part(data_uri(jpeg, "image/jpeg"))), RULES._replace(pixels_max=2099)
            ).message
        )
