import { execFile } from 'node:child_process';
import { chmod, cp, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';
import { Prisma } from '../../../src/generated/prisma/client.ts';
import { rowId } from '../../../src/kernel/graphql/global-id.ts';
import { person, workspace, type Person } from '../../support/actors.ts';
import { data } from '../../support/client.ts';
import { until } from '../../support/embedded.ts';

const run = promisify(execFile);

/** A test gives up after this long, milliseconds: four times the promise for a take-over. */
export const livenessMs = 60_000;

export interface Repository {
  readonly url: string;
  /** Writes the files and commits them. Answers with the commit's id. */
  commit(files: Readonly<Record<string, string>>, message?: string): Promise<string>;
}

/** A Git repository on this machine with a sample application of examples/. */
export async function repository(folder: string, name = 'repository', sample = 'hello-node'): Promise<Repository> {
  const dir = path.join(folder, name);
  await mkdir(dir);
  await chmod(dir, 0o755);
  const git = async (...args: string[]) => {
    const { stdout } = await run(
      'git',
      ['-c', 'user.name=Test', '-c', 'user.email=test@example.com', '-c', 'commit.gpgsign=false', ...args],
      { cwd: dir, env: { PATH: process.env['PATH'] ?? '', HOME: dir, GIT_CONFIG_NOSYSTEM: '1', LC_ALL: 'C' } },
    );
    return stdout.trim();
  };
  await git('init', '--quiet', '--initial-branch', 'main');
  await cp(path.join('examples', sample), dir, { recursive: true });
  return {
    url: `file://${dir}`,
    async commit(files, message = 'A change') {
      for (const [file, text] of Object.entries(files)) {
        await mkdir(path.dirname(path.join(dir, file)), { recursive: true });
        await writeFile(path.join(dir, file), text);
      }
      await git('add', '--all');
      await git('commit', '--quiet', '--allow-empty', '--message', message);
      return git('rev-parse', 'HEAD');
    },
  };
}

/** A server that answers every path with this text, and with the value of GREETING after it. */
export const answering = (text: string): string => `
const { createServer } = require('node:http');
const server = createServer((request, response) => response.end(${JSON.stringify(text)} + (process.env.GREETING ?? '')));
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log('listening for ' + ${JSON.stringify(text)}));
process.once('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
`;

/** The same for every driver: it listens where it is told to, `delayMs` after its start. */
export const serving = (text: string, delayMs = 0): string => `
const { createServer } = require('node:http');
const server = createServer((request, response) => response.end(${JSON.stringify(text)}));
setTimeout(() => server.listen(Number(process.env.PORT), process.env.HOST, () => console.log('listening for ' + ${JSON.stringify(text)})), ${delayMs});
process.once('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
`;

/** The sample's manifest without a start script and as CommonJS, so that `node server.js` is what starts it. */
export const plain = { 'package.json': JSON.stringify({ name: 'plain', main: 'server.js' }) };

export interface Union {
  readonly __typename: string;
  readonly code?: string;
  readonly message?: string;
  readonly issues?: readonly { readonly path: string; readonly message: string }[];
}

export interface Ended {
  readonly id: string;
  readonly status: string;
  readonly phase: string;
  readonly statusReason: string | null;
  readonly commitSha: string | null;
  readonly commitSubject: string | null;
  readonly attempt: number;
  readonly trigger: string;
  readonly healthEvidence: {
    readonly path: string;
    readonly lastResponse: { readonly status: number | null; readonly bodyStart: string | null } | null;
    readonly lastLines: readonly string[];
  } | null;
  readonly release: { readonly id: string; readonly status: string } | null;
  readonly restores: { readonly id: string; readonly status: string } | null;
  readonly steps: readonly { readonly name: string; readonly status: string; readonly attempt: number }[];
  readonly logs: {
    readonly nodes: readonly { readonly step: string | null; readonly stream: string; readonly text: string }[];
  };
}

const ended = `id status phase statusReason commitSha commitSubject attempt trigger healthEvidence
  release { id status } restores { id status } steps { name status attempt } logs(first: 100) { nodes { step stream text } }`;
const said = `__typename ... on ValidationError { issues { path message } } ... on Error { code message }`;

export interface Team {
  readonly url: string;
  readonly who: Person;
  /** Global id. */
  readonly workspaceId: string;
  create(input: object): Promise<Union & { readonly application?: { readonly id: string } }>;
  /** A new application; its id. @throws when it is refused */
  application(input: object): Promise<string>;
  createDeployment(input: object): Promise<Union & { readonly deployment?: { readonly id: string } }>;
  rollback(input: object): Promise<Union & { readonly deployment?: { readonly id: string } }>;
  stopApplication(id: string): Promise<Union>;
  cancel(id: string): Promise<Union>;
  retry(id: string): Promise<Union & { readonly run?: { readonly id: string } }>;
  deployment(id: string): Promise<Ended>;
  over(id: string): Promise<Ended>;
  /** Asks for a deployment and waits until it is over. */
  deploy(applicationId: string, more?: object): Promise<Ended>;
  address(applicationId: string): Promise<string | null>;
  /** What the application answers at its address. */
  answer(applicationId: string, at?: string): Promise<string>;
}

/** A person with a workspace, and the public API as they use it. */
export async function team(url: string): Promise<Team> {
  const who = await person(url);
  const { id: workspaceId } = await workspace(url, who);
  const mutate = async <T extends Union>(verb: string, fields: string, input: object): Promise<T> => {
    const name = verb.charAt(0).toUpperCase() + verb.slice(1);
    const answer = await data<Record<string, T>>(
      url,
      `mutation ($input: ${name}Input!) { ${verb}(input: $input) { ... on ${name}Success { ${fields} } ${said} } }`,
      { input },
      who,
    );
    const result = answer[verb];
    if (!result) throw new Error(`${verb} gave nothing`);
    return result;
  };
  const state = async (id: string): Promise<{ status: string; phase: string }> =>
    (
      await data<{ node: { status: string; phase: string } }>(
        url,
        `query ($id: ID!) { node(id: $id) { ... on Deployment { status phase } } }`,
        { id },
        who,
      )
    ).node;
  const self: Team = {
    url,
    who,
    workspaceId,
    create: (input) => mutate('createApplication', 'application { id }', { workspaceId, ...input }),
    async application(input) {
      const made = await self.create(input);
      if (!made.application) throw new Error(`${made.__typename}: ${made.message}`);
      return made.application.id;
    },
    createDeployment: (input) => mutate('createDeployment', 'deployment { id }', input),
    rollback: (input) => mutate('rollbackDeployment', 'deployment { id }', input),
    stopApplication: (id) => mutate('stopApplication', 'application { id }', { id }),
    cancel: (id) => mutate('cancelRun', 'run { id }', { id }),
    retry: (id) => mutate('retryRun', 'run { id }', { id }),
    async deployment(id) {
      const { node } = await data<{ node: Ended }>(
        url,
        `query ($id: ID!) { node(id: $id) { ... on Deployment { ${ended} } } }`,
        { id },
        who,
      );
      return node;
    },
    async over(id) {
      await until(
        `${id} is over`,
        async () => !['QUEUED', 'RUNNING', 'CANCELING'].includes((await state(id)).status),
        livenessMs,
      );
      return self.deployment(id);
    },
    async deploy(applicationId, more = {}) {
      const asked = await self.createDeployment({ applicationId, ...more });
      if (!asked.deployment) throw new Error(`${asked.__typename}: ${asked.message}`);
      return self.over(asked.deployment.id);
    },
    async address(applicationId) {
      const { node } = await data<{ node: { address: string | null } }>(
        url,
        `query ($id: ID!) { node(id: $id) { ... on Application { address } } }`,
        { id: applicationId },
        who,
      );
      return node.address;
    },
    async answer(applicationId, at = '/') {
      return (await fetch(`${await self.address(applicationId)}${at}`)).text();
    },
  };
  return self;
}

/** A release of the process driver with what that driver keeps of it. */
export function asProcess<R extends { readonly artifact: unknown; readonly instance: unknown }>(
  release: R,
): R & { readonly path: string; readonly pid: number | null; readonly startTime: string | null } {
  const { path: folder } = release.artifact as { path: string };
  const { pid = null, startTime = null } = (release.instance ?? {}) as { pid?: number; startTime?: string };
  return { ...release, path: folder, pid, startTime };
}

/** Where releases have an instance. */
export const running = { instance: { not: Prisma.DbNull } };

export const raw = (type: string, id: string): string => rowId(type, id);
