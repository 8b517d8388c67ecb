import { sign } from '@octokit/webhooks-methods';
import { createEmulator } from 'emulate';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { randomUUID } from 'node:crypto';
import { freePort } from './counterparts.ts';

/** What the edge was told of a commit. */
export interface ToldStatus {
  readonly path: string;
  readonly state: string;
  readonly context: string;
  readonly target_url: string;
  readonly description: string;
  readonly authorization: string;
}

export interface GitHubEdge {
  readonly url: string;
  readonly statuses: ToldStatus[];
  /** Answers that many of the next statuses with 503. */
  failStatuses(count: number): void;
  close(): Promise<void>;
}

/**
 * GitHub at one address: the emulator's REST API, Git repositories from `gitUrl`, and, since the emulator has none,
 * a fake of commit statuses that writes down what it is told.
 */
export async function startGitHub(gitUrl: string, seed: Record<string, unknown>): Promise<GitHubEdge> {
  const statuses: ToldStatus[] = [];
  let failing = 0;
  let api = '';
  const handle = async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks);
    const path = req.url ?? '/';
    if (req.method === 'POST' && /^\/repos\/[^/]+\/[^/]+\/statuses\//.test(path)) {
      const told = JSON.parse(body.toString()) as Omit<ToldStatus, 'path' | 'authorization'>;
      const fails = failing > 0;
      if (fails) failing -= 1;
      else statuses.push({ ...told, path, authorization: req.headers.authorization ?? '' });
      res.writeHead(fails ? 503 : 201, { 'content-type': 'application/json' });
      res.end(JSON.stringify(fails ? { message: 'down' } : { id: 1, state: told.state }));
      return;
    }
    const { host: _host, connection: _connection, 'content-length': _length, ...headers } = req.headers;
    const answer = await fetch(`${/\.git\//.test(path) ? gitUrl : api}${path}`, {
      method: req.method ?? 'GET',
      headers: headers as Record<string, string>,
      ...(body.length > 0 ? { body } : {}),
    });
    const content = Buffer.from(await answer.arrayBuffer());
    const kept = [...answer.headers].filter(([name]) => !/^(?:content-encoding|content-length|transfer-encoding|connection)$/.test(name)); // prettier-ignore
    res.writeHead(answer.status, Object.fromEntries(kept)).end(content);
  };
  const server = createServer((req, res) => {
    handle(req, res).catch((error: unknown) => res.writeHead(500).end(String(error)));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  const url = `http://127.0.0.1:${address.port}`;
  const port = await freePort();
  const emulator = await createEmulator({ service: 'github', port, baseUrl: url, seed });
  api = `http://127.0.0.1:${port}`;
  return {
    url,
    statuses,
    failStatuses: (count) => (failing = count),
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
      await emulator.close();
    },
  };
}

export interface DeliveryOptions {
  readonly event?: string;
  readonly guid?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Delivers as GitHub does; gives the status of the answer. */
export async function deliver(
  address: string,
  secret: string,
  payload: object | string,
  { event = 'push', guid = randomUUID(), headers = {} }: DeliveryOptions = {},
): Promise<number> {
  const body = typeof payload === 'string' ? payload : JSON.stringify(payload);
  const answer = await fetch(address, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      'user-agent': 'GitHub-Hookshot/044aadd',
      'x-github-event': event,
      'x-github-delivery': guid,
      'x-hub-signature-256': await sign(secret, body),
      ...headers,
    },
    body,
  });
  await answer.arrayBuffer();
  return answer.status;
}

/** What a push of a branch looks like, as far as it counts. */
export const push = (
  repository: { readonly id: number | bigint; readonly fullName: string; readonly fork?: boolean },
  after: string,
  more: object = {},
): object => ({
  ref: 'refs/heads/main',
  before: '0'.repeat(40),
  after,
  created: false,
  deleted: false,
  forced: false,
  repository: { id: Number(repository.id), full_name: repository.fullName, fork: repository.fork ?? false },
  commits: [],
  ...more,
});

/** A pull request as far as its events count. */
export interface PullRequest {
  readonly number: number;
  readonly sha: string;
  /** GitHub's id of the repository that it comes from; null: it is gone. Default: the repository itself. */
  readonly from?: number | bigint | null;
  readonly title?: string;
  readonly ref?: string;
  readonly base?: string;
  readonly state?: 'open' | 'closed';
  /** The commit before, of `synchronize`. */
  readonly before?: string;
}

/** What an event of a pull request looks like, at GitHub's time, of which it tells whole seconds. */
export function pullRequest(
  repository: { readonly id: number | bigint; readonly fullName: string },
  action: string,
  at: Date,
  of: PullRequest,
): object {
  const from = of.from === undefined ? repository.id : of.from;
  return {
    action,
    number: of.number,
    ...(of.before === undefined ? {} : { before: of.before, after: of.sha }),
    pull_request: {
      number: of.number,
      title: of.title ?? 'A change',
      state: of.state ?? (action === 'closed' ? 'closed' : 'open'),
      updated_at: at.toISOString().replace(/\.\d+/, ''),
      head: { sha: of.sha, ref: of.ref ?? 'change', repo: from === null ? null : { id: Number(from) } },
      base: { ref: of.base ?? 'main', sha: '0'.repeat(40), repo: { id: Number(repository.id) } },
    },
    repository: { id: Number(repository.id), full_name: repository.fullName, fork: false },
  };
}
