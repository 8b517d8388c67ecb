import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { person, workspace } from '../support/actors.ts';
import type { Crowd, Seen } from '../support/crowd.ts';
import { freePort } from '../support/counterparts.ts';
import { until } from '../support/embedded.ts';
import { append, documents } from '../support/live.ts';
import { spawnServer, startTestServer } from '../support/server.ts';

/** Sockets on one process; the goal is 10,000. */
const sockets = Number(process.env['PROOF_SOCKETS'] ?? '2000');
/** How often each must have been asked whether it is there: once in 12 s. */
const beats = Number(process.env['PROOF_BEATS'] ?? '1');
/** Sockets of one process of clients. */
const most = 2500;

async function ask(child: ChildProcess, what: Crowd | 'seen'): Promise<Seen> {
  const said = once(child, 'message') as Promise<[Seen | { error: string }]>;
  child.send(what);
  const [seen] = await said;
  if ('error' in seen) throw new Error(seen.error);
  return seen;
}

/** Memory of a process, its part of what it shares, kB. Linux only. */
const pss = (pid = 0): number =>
  process.platform === 'linux' ? Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1]) : 0; // prettier-ignore

test(`${sockets} sockets of one process live on, and one event reaches each of them once`, async () => {
  const [port, port2] = [String(await freePort()), String(await freePort())];
  const home = await startTestServer({
    SWITCHYARD_ROLES: 'api',
    PORT: port,
    // Sessions of the one are good at the other.
    PUBLIC_URL: 'http://switchyard.test',
    SESSION_SECRET: 'a secret of the proof, the same for both servers',
    SWITCHYARD_MAX_SOCKETS_PER_ACTOR: '100000',
  });
  onTestFinished(() => home.stop());
  const at = (one: string) => `http://127.0.0.1:${one}/graphql`;
  const ada = await person(at(port));
  const { id } = await workspace(at(port), ada);
  const server = await spawnServer({ ...home.env, PORT: port2 });
  onTestFinished(() => server.kill('SIGKILL'));
  const before = pss(server.child.pid);

  const children: ChildProcess[] = [];
  onTestFinished(async () => {
    for (const child of children) {
      const gone = once(child, 'exit');
      child.disconnect();
      await gone;
    }
  });
  const begun = performance.now();
  for (let left = sockets; left > 0; left -= most) {
    const child = fork(path.resolve('test/support/crowd.ts'), { execArgv: [] });
    children.push(child);
    const crowd = { authorization: `Bearer ${ada.token}`, query: documents.workspaceEvents, variables: { id } };
    await ask(child, { url: at(port2), count: Math.min(left, most), ...crowd });
  }
  const openedMs = performance.now() - begun;
  const seen = async (): Promise<readonly Seen[]> => Promise.all(children.map((child) => ask(child, 'seen')));
  const open = async () => (await seen()).reduce((sum, one) => sum + one.open, 0);

  const deadline = beats * 12_000 * 4;
  await until('each was asked', async () => (await seen()).every((one) => one.beats >= beats), deadline);
  expect(await open()).toBe(sockets);
  const held = pss(server.child.pid);
  const committed = Date.now();
  await append(home.running.app, id, 1);
  await until('each was told of it', async () => (await seen()).every(({ least }) => least >= 1), 60_000);
  const all = await seen();
  const told = Math.max(...all.map(({ lastAt }) => lastAt)) - committed;
  console.log(
    `MEASURED sockets: ${sockets} opened in ${Math.round(openedMs)} ms, alive after ${beats} heartbeats, ${Math.round((held - before) / sockets)} kB of PSS each beside ${Math.round(before / 1024)} MB, all told in ${told} ms`,
  );
  expect(all.map(({ least, most: highest }) => [least, highest])).toEqual(all.map(() => [1, 1]));
  expect(await open()).toBe(sockets);
});
