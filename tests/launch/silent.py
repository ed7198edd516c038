"""A display that shows nothing. It imports nothing: cells of toys import what imports it."""


class Silent:
    def update(self, running, done, total):
        pass

    def close(self):
        pass
