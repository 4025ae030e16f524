"""What the experiments on the learned game share.

``settings`` says what is played, ``training`` pre-trains the defenders, ``stages`` plays worlds,
``report`` makes tables of the outcomes, ``program`` is the command that does all, resumably.
"""
