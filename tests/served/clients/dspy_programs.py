"""DSPy: its language model, several turns, and a program, whose form is more than so small a model keeps to."""

import sys

import dspy

URL, BASE = sys.argv[1:]

lm = dspy.LM(
    f"openai/{BASE}", api_base=f"{URL}/v1", api_key="none", cache=False, max_tokens=200, temperature=0
)
dspy.configure(lm=lm)
said = lm("What is the capital of France?")
assert "Paris" in str(said[0])
assert lm(
    messages=[{"role": "user", "content": "My name is Nadia."}, {"role": "user", "content": "Who am I?"}]
)
try:
    assert dspy.Predict("question -> answer")(question="What is the capital of France?").answer
except dspy.utils.exceptions.AdapterParseError as error:
    assert error.lm_response  # it was answered, only not under DSPy's headings
