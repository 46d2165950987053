"""`laur evaluate`: how near few steps come to the teacher, beside what the teacher's own noise amounts to.

prompts      which prompts: a file's, or those of a prepared set whose concepts are held out
subjects     what is drawn from them: the teacher twice, DDIM in four steps, the student in 1, 2, 4, 8
gallery      pictures and their features, kept on disk, so that an interrupted evaluation goes on
inception    the network whose features are compared; no training loss ever uses it
measure      from features and scores to numbers with intervals
report       JSON, and one page of HTML
"""
