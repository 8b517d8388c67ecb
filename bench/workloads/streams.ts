import type { Contender } from '../contenders/index.ts';
import { applicationOf, globalId, rowId, workspaceOf, type Shape } from '../data/shape.ts';
import type { Subscriber } from '../load/subscriber.ts';
import type { Bench } from './bench.ts';
import type { Publisher } from './publisher.ts';

export const liveWorkloads = {
  S1: 'deliveries of one stream to all subscribers, events committed one after another',
  L1: 'latency from the making of an event to the client, S1 at half of its saturation',
  S2: 'deliveries of streams with one subscriber each',
  S3: 'deliveries of a mixed dashboard: ten documents on each socket, people with rights of their own',
  R1: 'replay of 10,000 events to late subscribers',
  K1: 'idle sockets that live on, and one event for all of them',
} as const;
export type LiveWorkload = keyof typeof liveWorkloads;
export const isLiveWorkload = (name: string): name is LiveWorkload => name in liveWorkloads;

const fields = 'seq type from to subjectId at data';
const events = (selection: string, filter = ''): string =>
  `workspaceEvents(workspaceId: $id${filter}) { ... on Event { ${selection} } }`;
const updates = (selection: string): string =>
  `deploymentUpdated(of: $id) { ... on DeploymentUpdate { event { data } ${selection} } }`;
const one = `subscription S1($id: ID!) { ${events(fields)} }`;
const late = `subscription R1($id: ID!, $after: String) { workspaceEvents(workspaceId: $id, after: $after) { ... on Event { ${fields} } } }`;
const ofRun = `subscription S2($id: ID!, $after: String) { runEvents(id: $id, after: $after) { ... on Event { ${fields} } } }`;
const only = ', filter: { types: ["deployment.building"] }';
const dashboard = [
  events('type to data'),
  events(fields),
  events('type subjectId runId data run { status }'),
  events('data run { id status ... on Deployment { application { name } } }'),
  events('type data run { createdAt actor { name } }'),
  updates('deployment { id status }'),
  updates('deployment { status ref application { name workspace { name } } }'),
  updates('deployment { status steps { name status } }'),
  events('type at data', only),
  events('type to data run { status createdAt }', only),
].map((field, index) => `subscription D${index}($id: ID!) { ${field} }`);

/** Who follows what, and what is published to them. */
export interface Setting {
  readonly subscribers: readonly Subscriber[];
  /** Publishes once, to all. */
  readonly publish: () => Promise<void>;
  /** Messages that come of it. */
  readonly messages: number;
}

/** A place in a workspace's log, as the server writes it. */
const cursorOf = (workspaceId: string, epoch: number, seq: bigint): string =>
  Buffer.from(JSON.stringify([workspaceId, epoch, String(seq)])).toString('base64url');

/** The k-th deployment that streams are of; they are spread over the workspaces. */
function run(shape: Shape, k: number): { readonly id: string; readonly workspace: number } {
  const i = 2 * k;
  return { id: rowId('deployment', i), workspace: workspaceOf(shape, applicationOf(shape, i)) };
}

/** The first of them in a workspace. */
function runOf(shape: Shape, workspace: number): string {
  for (let k = 1; k <= shape.deployments / 2; k++) {
    const found = run(shape, k);
    if (found.workspace === workspace) return found.id;
  }
  throw new Error(`Workspace ${workspace} has no deployment`);
}

/** Runs that streams are of: they must not be over. */
export const followed = ({ options, shape }: Bench): string[] =>
  Array.from(
    { length: Math.min(Math.max(options.subscribers, shape.workspaces * 2), shape.deployments / 2) },
    (_, k) => run(shape, k + 1).id,
  );

const every = async <T>(all: readonly T[], what: (one: T) => Promise<void>): Promise<void> =>
  void (await Promise.all(all.map(what)));

export async function settingOf(
  workload: Exclude<LiveWorkload, 'R1'>,
  { options, shape }: Bench,
  contender: Contender,
  publisher: Publisher,
): Promise<Setting> {
  const workspaceId = rowId('workspace', 1);
  const first = runOf(shape, 1);
  const toAll = (count: number): Setting => ({
    subscribers: Array.from({ length: count }, () => ({
      authorization: contender.authorization(1),
      subscriptions: [{ query: one, variables: { id: globalId('Workspace', workspaceId) } }],
    })),
    publish: () => publisher.publish(workspaceId, [first]),
    messages: count,
  });
  switch (workload) {
    case 'S1':
    case 'L1':
      return toAll(options.subscribers);
    case 'K1':
      return toAll(options.sockets);
    case 'S2': {
      const count = Math.min(options.subscribers, shape.deployments / 2);
      const runs = Array.from({ length: count }, (_, k) => run(shape, k + 1));
      const byWorkspace = Map.groupBy(runs, ({ workspace }) => workspace);
      // From now on: a stream of all that there was would end with what ended the run.
      const now = new Map<number, string>();
      for (const workspace of byWorkspace.keys()) {
        const id = rowId('workspace', workspace);
        const { seq, epoch } = await publisher.head(id);
        now.set(workspace, cursorOf(id, epoch, seq));
      }
      return {
        subscribers: runs.map(({ id, workspace }) => ({
          authorization: contender.authorization(workspace),
          subscriptions: [{ query: ofRun, variables: { id: globalId('Deployment', id), after: now.get(workspace) } }],
        })),
        publish: () =>
          every([...byWorkspace], ([workspace, some]) => publisher.publish(rowId('workspace', workspace), some.map(({ id }) => id))), // prettier-ignore
        messages: count,
      };
    }
    case 'S3': {
      const workspaces = Math.min(shape.workspaces, Math.max(1, Math.round(options.subscribers / 100)));
      const members = shape.users / shape.workspaces;
      const shown = Array.from({ length: workspaces }, (_, index) => index + 1);
      const shownRun = new Map(shown.map((workspace) => [workspace, runOf(shape, workspace)]));
      return {
        subscribers: shown.flatMap((workspace) =>
          Array.from({ length: members }, (_, index) => ({
            authorization: contender.authorization(workspace + index * shape.workspaces),
            subscriptions: dashboard.map((query) => ({
              query,
              variables: { id: globalId('Workspace', rowId('workspace', workspace)) },
            })),
          })),
        ),
        publish: () =>
          every(shown, (workspace) =>
            publisher.publish(rowId('workspace', workspace), [shownRun.get(workspace) ?? '']),
          ),
        messages: workspaces * members * dashboard.length,
      };
    }
    default:
      return workload satisfies never;
  }
}

/** Ten thousand events of the past, to each of some who come late. */
export async function replayOf({ options }: Bench, contender: Contender, publisher: Publisher) {
  const workspaceId = rowId('workspace', 1);
  const { seq, epoch } = await publisher.head(workspaceId);
  const events = Math.min(10_000, Number(seq));
  const after = cursorOf(workspaceId, epoch, seq - BigInt(events));
  const subscriber: Subscriber = {
    authorization: contender.authorization(1),
    subscriptions: [{ query: late, variables: { id: globalId('Workspace', workspaceId), after } }],
  };
  const count = Math.min(100, options.subscribers);
  return { subscribers: Array.from({ length: count }, () => subscriber), messages: events * count };
}
