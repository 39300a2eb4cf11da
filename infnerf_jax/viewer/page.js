// What the viewer adds to viser's page: a scale bar and the ground sampling
// distance and coordinates under the pointer, over a socket of their own.
(() => {
  // The token is in a cookie by now: keep it out of histories and screens.
  const here = new URL(window.location.href);
  if (here.searchParams.has('token')) {
    here.searchParams.delete('token');
    window.history.replaceState(null, '', here.href);
  }

  const make = (style) => {
    const box = document.createElement('div');
    box.style.cssText =
        'position:fixed;z-index:5;pointer-events:none;color:#fff;' +
        'font:12px/1.35 system-ui,sans-serif;white-space:pre;' +
        'text-shadow:0 0 3px #000,0 0 3px #000;' + style;
    document.body.appendChild(box);
    return box;
  };
  const start = () => {
    const bar = make('left:16px;bottom:14px;');
    const line = document.createElement('div');
    line.style.cssText = 'border:2px solid #fff;border-top:0;height:6px;' +
        'box-shadow:0 0 3px #000;';
    const label = document.createElement('div');
    bar.append(label, line);
    bar.id = 'infnerf-scale';
    const tip = make('display:none;');
    tip.id = 'infnerf-pointer';
    let pointer = null, socket = null, waiting = false;
    // The picture that came with the page gives way to the client's own, which
    // is drawn a moment after the server knows of it, or to whatever viser says
    // where there is none.
    let first = document.getElementById('infnerf-first');
    const giveWay = () => {
      if (!first) return;
      const gone = first;
      first = null;
      window.setTimeout(() => { gone.style.opacity = 0; }, 200);
      window.setTimeout(() => { gone.remove(); }, 600);
    };
    window.setTimeout(giveWay, 10000);

    window.addEventListener('pointermove', (event) => {
      const canvas = event.target;
      if (!(canvas instanceof HTMLCanvasElement)) {
        pointer = null;
        tip.style.display = 'none';
        return;
      }
      const frame = canvas.getBoundingClientRect();
      pointer = {
        u: (event.clientX - frame.left) / frame.width,
        v: (event.clientY - frame.top) / frame.height,
      };
      tip.style.left = `${event.clientX + 16}px`;
      tip.style.top = `${event.clientY + 14}px`;
      ask();
    });

    const show = (answer) => {
      if ('bar' in answer) giveWay();
      const canvas = document.querySelector('canvas');
      bar.style.display = answer.bar && canvas ? '' : 'none';
      if (answer.bar && canvas) {
        // A share of the canvas: its pixels may not be the page's.
        line.style.width = `${answer.bar.share * canvas.clientWidth}px`;
        label.textContent = answer.bar.text;
      }
      tip.style.display = pointer && answer.text ? '' : 'none';
      tip.textContent = answer.text || '';
    };
    // viser's socket is a worker's: what this page is called there comes
    // with its panel, and another one where the server was away.
    let session = '';
    const ask = () => {
      const mark = document.getElementById('infnerf-session');
      if (mark) session = mark.dataset.name;
      if (waiting || !session || !socket || socket.readyState !== 1) return;
      waiting = true;
      socket.send(JSON.stringify({session, ...pointer}));
    };
    const connect = () => {
      const address = new URL('pointer', window.location.href);
      address.protocol = address.protocol.replace('http', 'ws');
      socket = new window.WebSocket(address.href);
      socket.onmessage = (event) => {
        show(JSON.parse(event.data));
        // At most ten times a second.
        window.setTimeout(() => { waiting = false; }, 100);
      };
      socket.onclose = () => {
        waiting = false;
        bar.style.display = tip.style.display = 'none';
        window.setTimeout(connect, 2000);
      };
    };
    connect();
    window.setInterval(ask, 400);
  };
  if (document.body) start();
  else window.addEventListener('DOMContentLoaded', start);
})();
