import type { CloseEvent } from 'ws';
import type { Client, ClientOptions } from 'graphql-ws';
import type { App } from '../../src/kernel/app.ts';
import { system } from '../../src/kernel/auth/actor.ts';
import { defineEvent } from '../../src/kernel/events/define.ts';
import { rowId } from '../../src/kernel/graphql/global-id.ts';
import { socket, type Auth } from './client.ts';

/** An event for tests. Its data tells which one it is. */
export const noted = defineEvent<{ n: number; writer?: number; text?: string }>('test.noted', {
  subject: 'Workspace',
  description: 'A test wrote it.',
});
export const ignored = defineEvent<{ n: number }>('test.ignored', {
  subject: 'Workspace',
  description: 'A test wrote it for others.',
});

/** Appends events with `n` from `from` up, in one transaction. @param workspace global id */
export async function append(app: App, workspace: string, count: number, type = noted, from = 1): Promise<void> {
  const workspaceId = rowId('Workspace', workspace);
  await app.transact(system, async (tx) => {
    for (let n = from; n < from + count; n++) tx.append({ type, workspaceId, subjectId: workspaceId, data: { n } });
  });
}

export interface Item {
  readonly __typename:
    'Event' | 'LogLine' | 'StreamCheckpoint' | 'StreamGap' | 'RunSnapshot' | 'DeploymentUpdate' | 'ExtractionJobUpdate';
  readonly cursor?: string;
  readonly seq?: string;
  readonly type?: string;
  readonly text?: string;
  readonly at?: string;
  readonly data?: { readonly n?: number };
  readonly reason?: string;
  readonly resumeAfter?: string | null;
  readonly run?: { readonly status: string; readonly queuePosition: number | null };
  readonly event?: { readonly seq: string; readonly type: string; readonly to: string | null; readonly runId: string };
  readonly deployment?: { readonly id: string; readonly phase: string } | null;
}

const event = `__typename ... on Event { cursor seq type at data } ... on StreamCheckpoint { cursor } ... on StreamGap { reason resumeAfter }`;
export const documents = {
  workspaceEvents: `subscription ($id: ID!, $after: String, $filter: EventFilter) { item: workspaceEvents(workspaceId: $id, after: $after, filter: $filter) { ${event} } }`,
  runEvents: `subscription ($id: ID!, $after: String) { item: runEvents(id: $id, after: $after) { ${event} } }`,
  runLogs: `subscription ($id: ID!, $after: String, $filter: LogFilter) { item: runLogs(id: $id, after: $after, filter: $filter) {
    __typename ... on LogLine { cursor seq text } ... on StreamCheckpoint { cursor } ... on StreamGap { reason resumeAfter } } }`,
  deploymentUpdated: `subscription ($id: ID!, $after: String) { item: deploymentUpdated(of: $id, after: $after) {
    __typename ... on DeploymentUpdate { cursor event { seq type to runId } deployment { id phase } }
    ... on StreamCheckpoint { cursor } ... on StreamGap { reason resumeAfter } } }`,
  extractionJobUpdated: `subscription ($id: ID!, $after: String) { item: extractionJobUpdated(of: $id, after: $after) {
    __typename ... on ExtractionJobUpdate { cursor event { seq type to runId } }
    ... on StreamCheckpoint { cursor } ... on StreamGap { reason resumeAfter } } }`,
  run: `subscription ($id: ID!) { item: run(id: $id) { __typename cursor run { status queuePosition } } }`,
} as const;

/** One subscription over a WebSocket of its own, as far as it has come. */
export class Follower {
  readonly items: Item[] = [];
  readonly errors: { message: string; extensions?: Record<string, unknown> }[] = [];
  /** The server said that nothing more comes. */
  completed = false;
  closed: { code: number; reason: string } | null = null;
  readonly #client: Client;
  readonly #unsubscribe: () => void;

  constructor(
    url: string,
    auth: Auth,
    stream: keyof typeof documents,
    variables: { id: string; after?: string | null; filter?: object },
    options: Partial<ClientOptions> = {},
  ) {
    this.#client = socket(url, auth, {
      ...options,
      lazy: true,
      on: {
        ...options.on,
        closed: (given) => {
          const { code, reason } = given as CloseEvent;
          this.closed = { code, reason };
        },
      },
    });
    this.#unsubscribe = this.#client.subscribe<{ item: Item }>(
      { query: documents[stream], variables },
      {
        next: ({ data, errors }) => {
          if (data?.item) this.items.push(data.item);
          if (errors) this.errors.push(...(errors as Follower['errors']));
        },
        error: (error) => {
          if (Array.isArray(error)) this.errors.push(...(error as Follower['errors']));
          // Otherwise the socket closed, which `closed` tells.
        },
        complete: () => {
          this.completed = true;
        },
      },
    );
  }

  get events(): Item[] {
    return this.items.filter((item) => item.__typename === 'Event');
  }

  /** `n` of the test's events, in order of arrival. */
  get noted(): number[] {
    return this.events.flatMap((item) => (item.type === noted.name ? [item.data?.n ?? -1] : []));
  }

  get seqs(): number[] {
    return this.items.flatMap((item) => (item.seq === undefined ? [] : [Number(item.seq)]));
  }

  /** Cursor of the newest item that has one. */
  get cursor(): string | null {
    return this.items.findLast((item) => item.cursor)?.cursor ?? null;
  }

  /** Completes the subscription; the socket stays open until `close`. */
  unsubscribe(): void {
    this.#unsubscribe();
  }

  async close(): Promise<void> {
    await this.#client.dispose();
  }
}

/** 1, 2, … count */
export const upTo = (count: number, from = 1): number[] => Array.from({ length: count }, (_, index) => from + index);
