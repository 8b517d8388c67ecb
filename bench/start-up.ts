import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

// How long it takes until a started server answers its first query, and what it needs while idle (Linux).
//   node bench/start-up.ts [rounds]

const rounds = Number(process.argv[2] ?? '5');
const port = 4090;
const main = fileURLToPath(new URL('../src/main.ts', import.meta.url));

interface Memory {
  readonly process: string;
  readonly rssMb: number;
  /** Resident memory with shared pages divided among those that share them. */
  readonly pssMb: number;
}

async function answers(): Promise<boolean> {
  try {
    const response = await fetch(`http://127.0.0.1:${port}/graphql`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"query":"{ __typename }"}',
    });
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false; // not yet
  }
}

/** Processes that have the folder in their command line or are below such a one, by kind. */
async function memoryOf(marker: string, server: number): Promise<Memory[]> {
  const found = new Map<string, { rss: number; pss: number }>();
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    try {
      const command = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).replaceAll('\0', ' ');
      const parent = /^PPid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
      const parentCommand = await readFile(`/proc/${parent}/cmdline`, 'utf8').catch(() => '');
      const kind =
        Number(pid) === server
          ? 'server'
          : command.includes('proxy/main') && command.includes(marker)
            ? 'address proxy'
            : command.includes('supervisor') && command.includes(marker)
              ? 'database supervisor'
              : (command.includes(marker) || parentCommand.includes(marker)) && command.includes('postgres')
                ? 'PostgreSQL'
                : null;
      if (!kind) continue;
      const rollup = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
      const kb = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(rollup)?.[1] ?? '0');
      const sum = found.get(kind) ?? { rss: 0, pss: 0 };
      found.set(kind, { rss: sum.rss + kb('Rss'), pss: sum.pss + kb('Pss') });
    } catch {
      // it ended meanwhile
    }
  }
  return [...found].map(([process, { rss, pss }]) => ({
    process,
    rssMb: Math.round(rss / 1024),
    pssMb: Math.round(pss / 1024),
  }));
}

async function startAndStop(stateDir: string, measureMemory: boolean): Promise<{ ms: number; memory: Memory[] }> {
  const begun = performance.now();
  const child = spawn(process.execPath, [main], {
    stdio: 'ignore',
    env: {
      PATH: process.env['PATH'] ?? '',
      PORT: String(port),
      LOG_LEVEL: 'error',
      SWITCHYARD_STATE_DIR: stateDir,
      SWITCHYARD_PROCESS_DRIVER: 'true',
      // A server of this machine may have those of the default.
      SWITCHYARD_APP_USER_BASE: '74000',
    },
  });
  while (!(await answers())) {
    if (child.exitCode !== null) throw new Error(`the server ended with ${child.exitCode}`);
    await delay(10);
  }
  const ms = performance.now() - begun;
  let memory: Memory[] = [];
  if (measureMemory) {
    await delay(10_000);
    memory = await memoryOf(stateDir, child.pid ?? 0);
  }
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  await ended;
  return { ms, memory };
}

/** The address proxy outlives the server by design: a measurement ends it. */
async function endProxy(stateDir: string): Promise<void> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes('proxy/main') && command.includes(stateDir)) process.kill(Number(pid));
  }
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
const cold: number[] = [];
const warm: number[] = [];
let memory: Memory[] = [];
for (let round = 0; round < rounds; round++) {
  const root = await mkdtemp(path.join(tmpdir(), 'switchyard-bench-'));
  await chmod(root, 0o711);
  const stateDir = path.join(root, 'state');
  cold.push((await startAndStop(stateDir, false)).ms);
  await endProxy(stateDir);
  const second = await startAndStop(stateDir, round === rounds - 1);
  warm.push(second.ms);
  memory = second.memory;
  await endProxy(stateDir);
  await rm(root, { recursive: true, force: true });
}
const row = (name: string, values: number[]) =>
  console.log(
    `${name.padEnd(28)} median ${Math.round(median(values))} ms, worst ${Math.round(Math.max(...values))} ms (${values.length} rounds)`,
  );
row('first query, cold start', cold);
row('first query, warm start', warm);
for (const { process: name, rssMb, pssMb } of memory)
  console.log(`${`idle ${name}`.padEnd(28)} RSS ${rssMb} MB, PSS ${pssMb} MB`);
