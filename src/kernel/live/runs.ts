import type { LoggedEvent } from '../events/define.ts';
import type { Context } from '../graphql/context.ts';
import { isId } from '../ids.ts';
import { knowsRunKind, runKind } from '../runs/kinds.ts';
import { isTerminal } from '../runs/model.ts';
import { requireMember } from './stream-rights.ts';

// What streams look up of runs.

/** @param expected its kind; without it, any */
export async function findRun(
  context: Context,
  id: string,
  expected?: string,
): Promise<{ workspaceId: string; kind: string }> {
  const run = isId(id)
    ? await context.app.db.run.findUnique({ where: { id }, select: { workspaceId: true, kind: true } })
    : null;
  const workspaceId = expected === undefined || run?.kind === expected ? run?.workspaceId : undefined;
  requireMember(context, workspaceId, expected ?? 'Run', id);
  return { workspaceId, kind: run?.kind ?? '' };
}

export const stateOf = async (context: Context, id: string): Promise<'OPEN' | 'OVER' | 'GONE'> => {
  const run = await context.app.db.run.findUnique({ where: { id }, select: { status: true } });
  if (!run) return 'GONE';
  return isTerminal(run.status) ? 'OVER' : 'OPEN';
};

export function endsRun(event: LoggedEvent): boolean {
  if (event.to === null || !knowsRunKind(event.subjectType)) return false;
  const kind = runKind(event.subjectType);
  const phase = kind.phases[event.to];
  // A step that FAILED is not a run that did: the type tells which of the two it is.
  return phase !== undefined && kind.events.get(event.to)?.name === event.type && isTerminal(phase.status);
}
