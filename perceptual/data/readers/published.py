OPINIONS: dict = {}
