import type { Role } from '#prisma';
import type { ActorKind } from '../auth/actor.ts';

/** A kind of fact. Its name and the shape of its data at a version never change once released. */
export interface EventType<D extends object = object> {
  /** `<subject>.<past participle>`, for instance `deployment.succeeded`. */
  readonly name: string;
  readonly version: number;
  /** GraphQL type of the thing that it happened to. */
  readonly subject: string;
  readonly description: string;
  /**
   * True when it changes what somebody may see: open streams look at their rights again before they go on. If its data
   * has a `userId`, it concerns the credentials of that person only.
   */
  readonly rights: boolean;
  /** Least role that sees it in the workspace's log. */
  readonly least: Role;
  readonly __data?: D;
}

const types = new Map<string, EventType>();

/** Declares an event type. `D` is the shape of its data: ids and enumerations only, no personal data. */
export function defineEvent<D extends object = Record<string, never>>(
  name: string,
  options: { subject: string; description: string; version?: number; rights?: boolean; least?: Role },
): EventType<D> {
  if (types.has(name)) throw new Error(`Two event types named ${name}`);
  const type: EventType<D> = {
    name,
    version: options.version ?? 1,
    subject: options.subject,
    description: options.description,
    rights: options.rights ?? false,
    least: options.least ?? 'VIEWER',
  };
  types.set(name, type);
  return type;
}

export const eventTypes = (): ReadonlyMap<string, EventType> => types;

/** An event as it is appended. */
export interface NewEvent<D extends object = object> {
  readonly type: EventType<D>;
  readonly workspaceId: string;
  readonly subjectId: string;
  /** The run that it belongs to. */
  readonly run?: { readonly id: string; readonly kind: string };
  readonly from?: string;
  readonly to?: string;
  readonly data?: D;
}

/** An event as it stands in the log. */
export interface LoggedEvent {
  readonly workspaceId: string;
  readonly seq: bigint;
  readonly type: string;
  readonly version: number;
  readonly from: string | null;
  readonly to: string | null;
  readonly subjectType: string;
  readonly subjectId: string;
  readonly runId: string | null;
  readonly runKind: string | null;
  readonly actorId: string | null;
  readonly actorKind: ActorKind;
  /** The session or key; null where there is none. */
  readonly credentialId: string | null;
  /** Where it came from, by reference; null inside the server. */
  readonly originId: string | null;
  readonly data: Record<string, unknown>;
  readonly at: Date;
  readonly traceparent: string | null;
}
