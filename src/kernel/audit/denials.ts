import { service } from '../app.ts';
import { system, type Actor } from '../auth/actor.ts';
import { instanceWorkspaceId } from '../auth/instance.ts';
import { Forbidden, NotFound } from '../errors.ts';
import type { EventType } from '../events/define.ts';
import { networkOf } from '../rates/address.ts';
import { accessDenied, signInRefused } from './events.ts';

/** Equal refusals within so long are one event, milliseconds. */
const windowMs = 60_000;
/**
 * Different refusals told apart in one window: of one person or network, of a workspace, and of all. Further ones are one
 * event: of that person or network, or of the server.
 */
const mostOfSource = 10;
const mostOfWorkspace = 200;
const mostOfAll = 2000;
/** Transactions at once. */
const mostWriters = 2;

/** The thing that was asked for: of the first of equal refusals only. */
type Target = { readonly targetType?: string; readonly targetId?: string };

/** What was refused, as it is written. */
interface Refusal {
  readonly type: EventType<never>;
  readonly workspaceId: string;
  readonly actor: Actor;
  readonly data: Readonly<Record<string, string | null>>;
}

interface Counting extends Refusal {
  /** Not written yet. */
  count: number;
}

/**
 * Notes refusals in the audit log, after them and in transactions of their own: what was refused does not wait for it.
 * The first of its kind in a minute is written at once, the others are counted and written together at the minute's
 * end, so that a flood of refused calls costs a workspace's log one event a minute.
 */
export const Denials = service('denials', (app) => {
  let window = new Map<string, Counting>();
  /** Kinds told apart, by workspace and by source in it. */
  let kinds = new Map<string, number>();
  let timer: NodeJS.Timeout | null = null;
  /** Few at once: they must not take the connections of those who are allowed what they ask for. */
  const waiting: (() => Promise<void>)[] = [];
  const writers = new Set<Promise<void>>();

  const write = (
    { type, workspaceId, actor, data, target = {} }: Refusal & { target?: Target },
    count: number,
  ): void => {
    waiting.push(() =>
      app
        .transact(actor, async (tx) => {
          tx.append({ type, workspaceId, subjectId: workspaceId, data: { ...data, ...target, count } as never });
        })
        // Its workspace may be gone; the refusal itself stands.
        .catch((error: unknown) => app.log.warn({ err: error, workspaceId, refused: data }, 'refusal not noted')),
    );
    if (writers.size >= mostWriters) return;
    const writer = (async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) await next();
    })().finally(() => writers.delete(writer));
    writers.add(writer);
  };

  const endWindow = (): void => {
    const ended = window;
    window = new Map();
    kinds = new Map();
    timer = null;
    for (const one of ended.values()) if (one.count > 0) write(one, one.count);
  };

  const note = (refusal: Refusal, target: Target = {}): void => {
    const { type, workspaceId, actor, data } = refusal;
    timer ??= setTimeout(endWindow, windowMs).unref();
    // Not by what a client calls itself: it would be another one each time.
    const source = actor.userId ?? networkOf(actor.origin?.address ?? '');
    const count = (kind: string): number => kinds.get(kind) ?? 0;
    const key = JSON.stringify([workspaceId, type.name, source, actor.credentialId, data]);
    const known = window.get(key);
    if (known) {
      known.count++;
      return;
    }
    const full = count(workspaceId) >= mostOfWorkspace || window.size >= mostOfAll;
    if (full || count(`${workspaceId} ${source}`) >= mostOfSource) {
      const rest = full ? `${workspaceId} ${type.name}` : `${workspaceId} ${type.name} ${source}`;
      const counting = window.get(rest) ?? {
        ...refusal,
        actor: full ? system : { ...actor, credentialId: null },
        data: { ...data, ...anything(type) },
        count: 0,
      };
      counting.count++;
      window.set(rest, counting);
      return;
    }
    for (const place of [workspaceId, `${workspaceId} ${source}`]) kinds.set(place, count(place) + 1);
    window.set(key, { ...refusal, count: 0 });
    write({ ...refusal, target }, 1);
  };

  return {
    /** Notes a verb's refusal; other errors are none. */
    caught(actor: Actor, error: unknown): void {
      if (error instanceof Forbidden) {
        // A key reaches one workspace: that is where its refusals belong, whatever it asked for.
        const [own] = actor.kind === 'API_KEY' ? actor.roles.keys() : [];
        const workspaceId = error.workspaceId ?? own ?? instanceWorkspaceId;
        note({ type: accessDenied as EventType<never>, workspaceId, actor, data: { verb: error.verb } }, error.target);
      } else if (error instanceof NotFound && error.refused !== null) {
        // A stranger writes nothing into the log of others.
        const data = { verb: error.refused };
        const target = { targetType: error.kind, targetId: error.id };
        note({ type: accessDenied as EventType<never>, workspaceId: instanceWorkspaceId, actor, data }, target);
      }
    },

    /** Notes that somebody did not get in. `userId`: the account, where there is one. */
    signIn(actor: Actor, method: string, reason: string, userId: string | null = null): void {
      const data = { method, reason, userId };
      note({ type: signInRefused as EventType<never>, workspaceId: instanceWorkspaceId, actor, data });
    },

    /** Ends the minute now, and waits until everything is written. */
    async flush(): Promise<void> {
      if (timer) clearTimeout(timer);
      endWindow();
      await Promise.all(writers);
    },
  };
});

const anything = (type: EventType<never>): Record<string, string | null> =>
  type.name === accessDenied.name ? { verb: '*' } : { method: '*', reason: '*', userId: null };
