import { createHmac } from 'node:crypto';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { apiKey, rowId } from '../data/shape.ts';
import { cores, cpu, pss, tree } from '../measure.ts';
import type { Dialect } from '../workloads/documents.ts';
import type { LiveWorkload } from '../workloads/streams.ts';

export interface Contender {
  readonly name: string;
  /** For the report. */
  readonly label: string;
  readonly dialect: Dialect;
  /** The program, and where its checkout is. */
  readonly program: string;
  readonly env: Readonly<Record<string, string>>;
  /** Whether it answers requests. */
  readonly http: boolean;
  /** Which workloads of subscriptions it can do. */
  readonly live: readonly LiveWorkload[];
  /** Value of the header of a user (the first ones own the workspaces of the same numbers); null: all are let in. */
  authorization(user: number): string | null;
}

const here = import.meta.dirname;
const root = path.resolve(here, '../..');
const byKey = (workspace: number): string => `Bearer ${apiKey(workspace)}`;
const nobody = (): null => null;
const everyStream: readonly LiveWorkload[] = ['S1', 'L1', 'S2', 'S3', 'R1', 'K1'];
const claimsSecret = 'a secret of the bench that signs claims';

/** Claims that name somebody of the workspace, signed. */
function byClaims(workspace: number): string {
  const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { sub: rowId('user', workspace), workspace: rowId('workspace', workspace) };
  const text = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `Bearer ${text}.${createHmac('sha256', claimsSecret).update(text).digest('base64url')}`;
}

/** Its public settings: as in production, the role api alone; what one client may do is set high. */
const ofServer = (checkout: string, state: string) => ({
  dialect: 'relay' as const,
  http: true,
  live: everyStream,
  authorization: byKey,
  program: path.join(checkout, 'src/main.ts'),
  env: {
    SWITCHYARD_ROLES: 'api',
    SWITCHYARD_STATE_DIR: state,
    SWITCHYARD_PROCESS_DRIVER: 'true',
    SWITCHYARD_DOCKER: 'off',
    SESSION_SECRET: 'a secret of the bench that signs sessions',
    STORAGE_SECRET: 'a secret of the bench that signs addresses',
    SWITCHYARD_ENCRYPTION_KEYS: `bench:${Buffer.alloc(32, 7).toString('base64')}`,
    SWITCHYARD_RATE_POINTS: '1000000000',
    SWITCHYARD_RATE_POINTS_ANONYMOUS: '1000000000',
    SWITCHYARD_MAX_SOCKETS_PER_ACTOR: '100000',
    LOG_LEVEL: 'warn',
  },
});

/** @param against a checkout of another version of the server */
export function contenders(state: string, against: string | null): readonly Contender[] {
  const other = (name: string, label: string, file: string, more: Partial<Contender> = {}): Contender => ({
    name,
    label,
    dialect: 'relay',
    program: path.join(here, file),
    env: {},
    http: true,
    live: [],
    authorization: byKey,
    ...more,
  });
  const postgraphile = { dialect: 'postgraphile', authorization: nobody } as const;
  const claims = { ...postgraphile, env: { CLAIMS_SECRET: claimsSecret }, authorization: byClaims };
  return [
    { name: 'switchyard', label: 'Switchyard', ...ofServer(root, state) },
    ...(against
      ? [{ name: 'switchyard-before', label: 'Switchyard, before', ...ofServer(against, `${state}-before`) }]
      : []),
    other('postgraphile', 'PostGraphile, no rights', 'postgraphile.ts', postgraphile),
    other('postgraphile-rls', 'PostGraphile, row level security', 'postgraphile.ts', claims),
    other('mercurius', 'Mercurius + jit + DataLoader + pg', 'mercurius.ts', { live: everyStream }),
    other('apollo', 'Apollo Server + DataLoader + pg', 'apollo.ts'),
    other('yoga-stock', 'Yoga + graphql-ws + DataLoader + pg', 'yoga-stock.ts', { live: everyStream }),
    other('limit', 'node:http + one statement, no rights', 'limit.ts', { dialect: 'limit', authorization: nobody }),
    other('raw-ws', 'raw ws, no rights', 'raw-ws.ts', {
      http: false,
      live: ['S1', 'L1', 'S2', 'K1'],
      authorization: nobody,
    }),
  ];
}

/** The server without its compiler. */
export const notCompiling = (server: Contender): Contender => ({
  ...server,
  name: 'switchyard-ordinary',
  label: `${server.label}, not compiling`,
  env: {
    ...server.env,
    SWITCHYARD_STATE_DIR: `${server.env['SWITCHYARD_STATE_DIR']}-ordinary`,
    SWITCHYARD_COMPILE: 'false',
  },
});

/** For random operations, which are larger than those of people; and few connections, which have soon prepared theirs. */
export const withWideLimits = {
  SWITCHYARD_MAX_COST: '1000000',
  SWITCHYARD_MAX_DEPTH: '30',
  SWITCHYARD_MAX_ALIASES: '1000',
  DATABASE_POOL_MAX: '2',
  METRICS_TOKEN: 'a secret of the bench that reads metrics',
} as const;

/** What executes runs, for J1 and E1. */
export function runners(state: string, against: string | null): readonly Contender[] {
  const worker = (name: string, label: string, checkout: string, of: string): Contender => {
    const server = ofServer(checkout, of);
    const env = {
      ...server.env,
      SWITCHYARD_ROLES: 'worker',
      // Nothing is deployed: no address proxy, which would outlive the worker.
      SWITCHYARD_PROCESS_DRIVER: 'false',
      SWITCHYARD_EVENT_RETENTION_DAYS: '3650',
      CHECKOUT: checkout,
    };
    return { name, label, ...server, program: path.join(here, 'worker.ts'), env };
  };
  const jobs = (name: string, label: string): Contender => ({
    ...worker(name, label, root, state),
    program: path.join(here, 'jobs.ts'),
    env: { JOBS: name },
  });
  return [
    worker('switchyard', 'Switchyard', root, state),
    ...(against ? [worker('switchyard-before', 'Switchyard, before', against, `${state}-before`)] : []),
    jobs('pg-boss', 'pg-boss alone'),
    jobs('insert', 'one insert'),
  ];
}

/** A contender that answers. */
export interface Running {
  readonly url: string;
  readonly pid: number;
  cpu(): Map<number, number>;
  /** kB */
  pss(): number;
  signal(signal: NodeJS.Signals): void;
  /** What it last wrote to its output. */
  lastWords(): string;
  stop(): Promise<void>;
}

const firstPort = 4700;
let ports = 0;

/** Starts a contender on a core of its own. @throws with its last words when it ends before it answers */
export async function start(contender: Contender, databaseUrl: string): Promise<Running> {
  const port = firstPort + (ports++ % 200);
  const node = ['--expose-gc', '--import', path.join(here, 'shared/probe.mjs'), contender.program];
  const [command, args] = cores.server === null ? [process.execPath, node] : ['taskset', ['-c', String(cores.server), process.execPath, ...node]]; // prettier-ignore
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env['PATH'] ?? '',
      HOME: process.env['HOME'] ?? '',
      NODE_ENV: 'production',
      HOST: '127.0.0.1',
      PORT: String(port),
      PUBLIC_URL: `http://127.0.0.1:${port}`,
      DATABASE_URL: databaseUrl,
      DATABASE_POOL_MAX: process.env['DATABASE_POOL_MAX'],
      ...contender.env,
    },
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-4000))); // prettier-ignore
  const url = `http://127.0.0.1:${port}/graphql`;
  const failed = once(child, 'error').then(([error]: unknown[]) => Promise.reject(error as Error));
  await Promise.race([answers(url, child, () => `${contender.name} ended:\n${said}`), failed]);
  const pid = child.pid ?? 0;
  return {
    url,
    pid,
    cpu: () => cpu(tree(pid)),
    pss: () => pss(pid),
    signal: (signal) => void child.kill(signal),
    lastWords: () => said,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), 10_000);
      await gone;
      clearTimeout(late);
    },
  };
}

async function answers(url: string, child: ChildProcess, lastWords: () => string): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error(lastWords());
    try {
      const headers = { 'content-type': 'application/json' };
      const response = await fetch(url, { method: 'POST', headers, body: '{"query":"{ __typename }"}' });
      await response.arrayBuffer();
      return;
    } catch (error) {
      if (Date.now() > deadline) throw new Error(lastWords(), { cause: error });
      await delay(50);
    }
  }
}
