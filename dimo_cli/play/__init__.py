"""`dimo play`: a student in a page of the browser.

    studio.py       the models and what can be asked of them; knows no web
    server.py       Starlette around it: one thread for the models, answers as lines of JSON
    door.py         who may use the page
    connections.py  how many connections there may be, and how long a request may take to arrive
    page/           the page itself: plain HTML, CSS and JavaScript, nothing from elsewhere

Starlette and uvicorn rather than a toolkit of ready-made pages: two small packages, and every
element of the page is ours to make accessible.
"""
