"""The learner: DeepSpeed ranks that score every view, form the objective, step the student and move the teacher."""
