"""The rules that judge answers: one module per task, and `format` and `length` for the response around the answer.

Pure functions of text and reference. Each module's VERSION changes whenever any input would be judged differently;
presets hash the versions, so that a resumed run notices.
"""
