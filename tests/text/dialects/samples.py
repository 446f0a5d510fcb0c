"""Turns of every dialect, as its project publishes them or in the form it publishes."""

# ruff: noqa: E501 - turns are kept on their lines
from __future__ import annotations

DEEPEYES = (
    '<tool_call>  \n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the apple on the desk"}}  \n</tool_call>',
    '<think>two of them</think>\n<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the apple on the desk"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [8, 40, 50, 150], "label": "the person under the tree"}}\n</tool_call>',
    '<tool_call>\n{"name": "image_rotate_tool", "arguments": {"image_path": "test.jpg", "angle": 90}}\n</tool_call>',
    '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"image_path": "test.jpg", "bbox": [10, 10, 100, 100]}}\n</tool_call>',
    "<think>The sign is red.</think> <answer>B</answer>",
    "I cannot see it.",
)
PIXEL_REASONER = (
    'To identify the animal on the sign, I will zoom in on the Woolshops Shopping Centre sign.\n\n<tool_call>\n{"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.1, 0.2, 0.3, 0.4], "target_image":1}}\n</tool_call>',
    'The whole of it.\n\n<tool_call>\n{"name": "crop_image_normalized", "arguments": {"bbox_2d": [0, 0, 1, 1], "target_image": 1}}\n</tool_call>',
    'Which frames?\n\n<tool_call>\n{"name": "select_frames", "arguments": {"target_frames": [1, 2, 3]}}\n</tool_call>',
    "It shows a sheep.\n\n\\boxed{B}",
    "It is \\boxed{\\frac{1}{2}}, surely.",
    "I do not know.",
)
MINI_O3 = (
    '<think>closer</think> <grounding>{"bbox_2d": [0.1, 0.2, 0.5, 0.6], "source": "original_image"}</grounding>',
    '<think>closer still</think><grounding>{"bbox_2d": [0.25, 0.25, 0.75, 0.75], "source": "observation_1"}</grounding>',
    '<think>I\'ll zoom in on that area to read the sign clearly.</think> <grounding>{"bbox_2d": [2761, 715, 3160, 896]}</grounding>',
    '<think>To determine the name of the store with a blue sign</think> <answer>The name of the store with a blue sign is "J&optica." </answer>',
    "I am done.",
)
OPHIUCHUS = (
    '<think> The BiomedParse output highlights a region. </think> Action: <tool_call>Zoom-in\n```json\n[{\n    "index": 2,\n    "bbox_2d": [200, 221, 210, 232]\n}]\n```</tool_call>',
    '<think> I will apply BiomedParse. </think> Action: <tool_call>BiomedParse\n```json\n[{\n    "index": 1,\n    "captions": "liver tumor"\n}]\n```</tool_call>',
    '<think> closer </think> Action: Zoom-in\n```json\n[\n    {\n        "index": 1, # Image index\n        "bbox_2d": [128, 64, 256, 512]\n    }\n]\n```',
    '<think> outline </think> Action: SAM2\n```json\n[{"index": 1, "bbox_2d": [10, 20, 100, 200]}]\n```',
    "<think> The zoomed-in image shows an irregular shape. </think> Action: Answer\n<answer> C </answer>",
    "I see a lesion in the liver.",
)
OPENTHINKIMG = (
    '{"thought": "To determine the year with the highest value.", "actions": [{"name": "OCR", "arguments": {"image": "img_1"}}]}',
    '{"thought": "The x-coordinate.", "actions": [{"name": "Point", "arguments": {"image": "img_1", "param": "x-axis value 1970"}}]}',
    '{"thought": "a line", "actions": [{"name": "DrawVerticalLineByX", "arguments": {"image": "img_1", "param": "x=\\"10.1\\" y=\\"12.6\\""}}]}',
    '{"thought": "closer", "actions": [{"name": "ZoomInSubfigure", "arguments": {"image": "img_1", "param": "Downstream vs. Concept: Toy"}}]}',
    '{"thought": "closer", "actions": [{"name": "crop", "arguments": {"image": "img_1", "param": "[0, 308, 858, 718]"}}]}',
    '{"thought": "From the extracted values, Year 3 has the highest value of 35.", "actions": [{"name": "Terminate", "arguments": {"answer": "Year 3"}}]}',
    '{"thought": "done", "actions": [{"name": "Terminate", "arguments": {"ans": "Top Cluster"}}]}',
    '{"thought": "nothing to do", "actions": []}',
)
QWEN3_VL = (
    '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"label": "main hanging sign for Hop Inn", "bbox_2d": [574, 301, 660, 468], "img_idx": 0}}\n</tool_call>',
    '```json\n[\n\t{"point_2d": [925, 618], "label": "point_1"},\n\t{"bbox_2d": [231, 795, 284, 820], "label": "license plate"}\n]\n```',
    '[{"bbox_2d": [395, 276, 618, 740], "label": "central bear logo"}]',
    "It is a pub.</think>\n\nThe picture was taken in Horsham.",
    "<think>still thinking",
)
OPENAI = (
    '{"role": "assistant", "content": null, "reasoning_content": "look", "tool_calls": [{"id": "call_a", "type": "function", "function": {"name": "zoom_in", "arguments": "{\\"bbox_2d\\": [10, 20, 300, 400], \\"image_index\\": 0}"}}]}',
    '{"role": "assistant", "content": "<think>look</think><tool_call>{\\"name\\": \\"zoom_in\\", \\"arguments\\": {\\"bbox_2d\\": [10, 20, 300, 400]}}</tool_call>"}',
    '{"role": "assistant", "content": [{"type": "text", "text": "<answer>B</answer>"}]}',
    '{"role": "assistant", "content": "I do not know."}',
)
MEDVISTA = (
    '<think>look</think><tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [10, 20, 300, 400], "image_index": 0}}</tool_call>',
    "<think>it is there</think><answer>B</answer>",
    "nothing",
)
SAMPLES: dict[str, tuple[str, ...]] = {
    "deepeyes": DEEPEYES,
    "medvista": MEDVISTA,
    "mini-o3": MINI_O3,
    "openai": OPENAI,
    "openthinkimg": OPENTHINKIMG,
    "ophiuchus": OPHIUCHUS,
    "pixel-reasoner": PIXEL_REASONER,
    "qwen3-vl": QWEN3_VL,
}
