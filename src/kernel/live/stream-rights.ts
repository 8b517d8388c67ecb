import { GraphQLError } from 'graphql';
import type { Role } from '#prisma';
import { atLeast, type Actor } from '../auth/actor.ts';
import { NotFound, Unauthenticated } from '../errors.ts';
import { eventTypes, type LoggedEvent } from '../events/define.ts';
import type { Context } from '../graphql/context.ts';

// What a stream may tell whom, for as long as it lasts.

const rightsEnded = () =>
  new GraphQLError('Your right to this stream ended. Sign in again and resume after your last cursor.', {
    extensions: { code: 'FORBIDDEN' },
  });

/** How a stream is told that its credential has another end. */
const ends = new WeakMap<Context, () => void>();

/** Calls `arm` whenever the credential of a context has another end; null: not any more. */
export const onNewEnd = (context: Context, arm: (() => void) | null): void =>
  void (arm ? ends.set(context, arm) : ends.delete(context));

/** Tells the client that its credential has ended. @returns the error that its stream ends with */
export function credentialEnded(context: Context): GraphQLError {
  context.endStreams?.('The credential expired.');
  return rightsEnded();
}

/**
 * Looks at the rights again; what is resolved from now on has those of now.
 * @throws when the actor may no longer read the workspace
 */
export async function recheck(context: Context, workspaceId: string, least: Role = 'VIEWER'): Promise<void> {
  const now = await context.app.actors.refresh(context.actor);
  const role = now?.roles.get(workspaceId);
  if (now && role !== undefined && atLeast(role, least)) {
    context.actor = now;
    ends.get(context)?.();
    return;
  }
  context.endStreams?.('The right to a stream ended.');
  throw rightsEnded();
}

/** True for an event after which the actor may have other rights. */
export function changesRights(event: LoggedEvent, actor: Actor): boolean {
  if (!eventTypes().get(event.type)?.rights) return false;
  const { userId } = event.data;
  return typeof userId !== 'string' || userId === actor.userId;
}

/** @throws {Unauthenticated} {NotFound} */
export function requireMember(
  context: Context,
  workspaceId: string | undefined,
  kind: string,
  id: string,
): asserts workspaceId is string {
  if (context.actor.kind === 'ANONYMOUS') throw new Unauthenticated();
  if (!workspaceId || !context.actor.roles.has(workspaceId)) throw new NotFound(kind, id);
}

/** Whether the role in the event's workspace is enough to be told of it. */
export function mayHear({ roles }: Pick<Actor, 'roles'>, event: LoggedEvent): boolean {
  const role = roles.get(event.workspaceId);
  const least = eventTypes().get(event.type)?.least ?? 'VIEWER';
  return role !== undefined && atLeast(role, least);
}
