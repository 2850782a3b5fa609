// A SOCKS5 proxy on the loopback, through the engine:
//
//     node socks.js PORT COMMAND...
//
// The command's stdin and stdout are the pipe to the far side: PuTTY's bare
// ssh-connection, as `psusan` and `ssh HOST psusan` speak it. Names are looked up by
// the far host. Port 0 is one that is free; which it is, is said on stderr.
//
// core/ is what jco makes of the component: it needs nothing from npm to run.

import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { engine } from './core/core.js';

// Bytes of a frame: what OpenSSH takes for a packet.
const LONGEST = 256 << 10;
const GREETING = 'SSHCONNECTION@putty.projects.tartarus.org-2.0-';
const [port, program, ...words] = process.argv.slice(2);
if (program === undefined) {
  console.error('usage: node socks.js PORT COMMAND...');
  process.exit(2);
}

const child = spawn(program, words, { stdio: ['pipe', 'pipe', 'inherit'] });
const session = new engine.Session({
  prefix: '/net',
  services: [],
  limits: engine.defaultLimits(),
});
const started = process.hrtime.bigint();
const waiting = new Map(); // who waits for which request
let requests = 0n;
let timer;

function end(why) {
  console.error(why);
  process.exit(1);
}

/** An event: calls the engine, and performs what it answers. */
function event(call) {
  for (const { tag, val } of call(session)) {
    switch (tag) {
      case 'send': {
        const frame = Buffer.alloc(4 + val.length);
        frame.writeUInt32BE(val.length);
        frame.set(val, 4);
        child.stdin.write(frame, () => event((s) => s.pipeTook(BigInt(val.length))));
        break;
      }
      case 'complete': {
        const { resolve, reject } = waiting.get(val.request);
        waiting.delete(val.request);
        if (val.outcome.tag === 'ok') resolve(val.outcome.val.val);
        else reject(Object.assign(new Error(val.outcome.val.message), val.outcome.val));
        break;
      }
      case 'wake':
        clearTimeout(timer);
        timer = setTimeout(() => event((s) => s.advance(now())), Number((val - now()) / 1000n) + 1);
        break;
      case 'warn':
        console.error(val);
        break;
      case 'fail':
        end(val);
    }
  }
}

const now = () => (process.hrtime.bigint() - started) / 1000n;

/** A request: a promise of its outcome. */
function request(call) {
  const name = ++requests;
  return new Promise((resolve, reject) => {
    waiting.set(name, { resolve, reject });
    event((s) => call(s, name));
  });
}

const control = (client, text) =>
  request((s, name) => s.control(name, client, new TextEncoder().encode(text)));

/** Puts what comes on the pipe together to messages. */
let greeted = false;
let have = Buffer.alloc(0);
child.stdout.on('data', (piece) => {
  have = Buffer.concat([have, piece]);
  if (!greeted) {
    const line = have.indexOf('\n');
    if (line < 0) return;
    if (!have.toString('latin1').startsWith(GREETING)) end('that is no bare ssh-connection');
    have = have.subarray(line + 1);
    greeted = true;
    event((s) => s.pipeUp());
    server.listen(Number(port), '127.0.0.1');
  }
  while (have.length >= 4 && have.length >= 4 + have.readUInt32BE()) {
    const message = have.subarray(4, 4 + have.readUInt32BE());
    have = have.subarray(4 + message.length);
    event((s) => s.advance(now()));
    event((s) => s.receive(message));
  }
  if (have.length >= 4 && have.readUInt32BE() > LONGEST) end('the pipe has a frame that is too long');
});
child.on('exit', () => end('the pipe ended'));
child.stdin.on('error', (error) => end(error.message));
child.stdin.write(`${GREETING}sshnet_example\r\n`);

/** Takes so many bytes off a socket. */
async function take(socket, count) {
  for (;;) {
    const bytes = socket.read(count);
    if (bytes !== null) return bytes;
    if (socket.readableEnded || socket.destroyed) throw new Error('the caller went away');
    await new Promise((resolve) => {
      const go = () => {
        for (const what of ['readable', 'end', 'close']) socket.off(what, go);
        resolve();
      };
      for (const what of ['readable', 'end', 'close']) socket.on(what, go);
    });
  }
}

/** Reads what a SOCKS5 client wants (RFC 1928): `host!port`. */
async function wanted(socket) {
  const [version, methods] = await take(socket, 2);
  if (version !== 5) throw new Error('that is no SOCKS5');
  await take(socket, methods);
  socket.write(Buffer.from([5, 0]));
  const [, command, , kind] = await take(socket, 4);
  let host;
  if (kind === 1) host = (await take(socket, 4)).join('.');
  else if (kind === 3) host = (await take(socket, (await take(socket, 1))[0])).toString();
  else host = (await take(socket, 16)).toString('hex').match(/..../g).join(':');
  const number = (await take(socket, 2)).readUInt16BE();
  return { host: `${host}!${number}`, connect: command === 1 };
}

const answer = (socket, code) => socket.write(Buffer.from([5, code, 0, 1, 0, 0, 0, 0, 0, 0]));
const CODES = { 'access-denied': 2, 'connection-refused': 5, 'timed-out': 4 };

async function serve(socket) {
  const { host, connect } = await wanted(socket);
  if (!connect) return answer(socket, 7);
  const client = await request((s, name) => s.clone(name, 'tcp'));
  try {
    try {
      await control(client, `connect ${host}`);
    } catch (error) {
      console.error(`${host}: ${error.message}`);
      return answer(socket, CODES[error.code] ?? 1);
    }
    answer(socket, 0);
    await Promise.all([outward(socket, client), inward(socket, client)]);
  } finally {
    event((s) => s.release(client));
  }
}

async function outward(socket, client) {
  for await (const bytes of socket.iterator({ destroyOnReturn: false })) {
    await request((s, name) => s.write(name, client, bytes));
  }
  await control(client, 'closewrite');
}

async function inward(socket, client) {
  for (;;) {
    const bytes = await request((s, name) => s.read(name, client, 65536));
    if (bytes.length === 0) return socket.end();
    if (!socket.write(bytes)) {
      await new Promise((resolve) => socket.once('drain', resolve).once('close', resolve));
    }
  }
}

const server = createServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', () => {});
  serve(socket)
    .catch((error) => console.error(error.message))
    .finally(() => socket.end());
});
server.on('listening', () => console.error(`listening on 127.0.0.1:${server.address().port}`));
server.on('error', (error) => end(error.message));
