import type { Role } from '#prisma';
import type { App } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { NotFound } from '../errors.ts';
import type { LoggedEvent } from '../events/define.ts';
import type { Context } from '../graphql/context.ts';
import { abortable } from './abortable.ts';
import type { Channel } from './channel.ts';
import { encodeCursor, type Cursor } from './cursor.ts';
import { follow } from './follow.ts';
import type { Subscription } from './hub.ts';
import type { EventItem, Snapshot } from './items.ts';
import { changesRights, recheck } from './stream-rights.ts';

/** Which events of a workspace's log a stream tells, and to whom. Says nothing of who follows it. */
export interface EventPlan {
  readonly workspaceId: string;
  /** Null: from now, and says where that is. */
  readonly after: Cursor | null;
  /** Told of the events that were read together, before they are looked at one by one. */
  readonly prepare?: (events: readonly LoggedEvent[]) => Promise<unknown>;
  /** Given the rights of those who follow. */
  readonly wanted: (event: LoggedEvent, rights: Pick<Actor, 'roles'>) => boolean | Promise<boolean>;
  /** The only events that can be wanted, where one id tells: those of a run, or about one thing. */
  readonly only?: { readonly runId: string } | { readonly subjectId: string } | undefined;
  /** True when nothing will come after this event. */
  readonly last?: (event: LoggedEvent) => boolean;
  /** Nothing will come after this seq. */
  readonly until?: bigint | undefined;
  /** Role without which the stream ends. */
  readonly least?: Role;
  /**
   * Told in place of events: how something is after them. It begins with how it is now; those that come faster than they
   * are told are merged, and where it stands is not said.
   */
  readonly snapshots?: {
    readonly of: (event: LoggedEvent, epoch: number) => Snapshot;
    /** To one who follows alone, as {@link followIn} does it. */
    readonly follow: (...args: Parameters<typeof followIn>) => ReturnType<typeof followIn>;
  };
}

/** How a plan is followed by one alone. */
interface Alone {
  /** @see Channel.follow */
  readonly taken?: (position: bigint) => boolean;
  /** The rights were looked at up to where it begins. */
  readonly resumed?: boolean;
}

/** Events as a plan says. Who iterates it follows alone; whoever can share (event-follower.ts) takes the plan. */
export class EventStream implements AsyncIterable<EventItem> {
  readonly context: Context;
  readonly plan: EventPlan;

  constructor(context: Context, plan: EventPlan) {
    this.context = context;
    this.plan = plan;
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<EventItem> {
    return abortable(this.context, (signal) => followEvents(this.context, this.plan, signal));
  }
}

/** The log of a workspace as this process follows it. @throws {NotFound} when there is none */
export async function watchWorkspace(app: App, workspaceId: string): Promise<Subscription<LoggedEvent>> {
  const subscription = await app.hub.watchEvents(workspaceId);
  if (!subscription) throw new NotFound('Workspace', workspaceId);
  return subscription;
}

export async function* followEvents(
  context: Context,
  plan: EventPlan,
  signal: AbortSignal,
): AsyncGenerator<EventItem, void, void> {
  const { channel, release } = await watchWorkspace(context.app, plan.workspaceId);
  try {
    yield* followIn(channel, context, plan, signal);
  } finally {
    release();
  }
}

/** What a plan tells of a channel, to one who follows alone. */
export async function* followIn(
  channel: Channel<LoggedEvent>,
  context: Context,
  plan: EventPlan,
  signal: AbortSignal,
  options: Alone = {},
): AsyncGenerator<EventItem, void, void> {
  if (plan.snapshots) return yield* plan.snapshots.follow(channel, context, plan, signal, options);
  const { workspaceId, prepare, wanted, last, until, least } = plan;
  const after = plan.after ?? { stream: workspaceId, epoch: channel.head.epoch, seq: channel.head.seq };
  // Rights that changed after the actor was read and before this place have no event in the stream.
  if (!options.resumed) await recheck(context, workspaceId, least);
  // Who is cut off before the first event can resume from here.
  if (!plan.after) yield { kind: 'checkpoint', cursor: encodeCursor(after) };
  yield* follow<LoggedEvent>({
    stream: workspaceId,
    channel,
    after,
    signal,
    wanted: (event) => wanted(event, context.actor),
    before: (event) => (changesRights(event, context.actor) ? recheck(context, workspaceId, least) : undefined),
    ...(prepare ? { prepare } : {}),
    ...(last ? { last } : {}),
    until,
    taken: options.taken,
  });
}
