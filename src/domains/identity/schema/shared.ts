import { cursorOf } from '#kernel/graphql/kit.ts';
import type { Appended } from '#kernel/db/transact.ts';

export const eventCursor = (written: { workspaceId: string; event: Appended | null }) =>
  cursorOf(written.workspaceId, written.event);

export interface Written {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended | null;
}

export const workspaceId = { description: 'Global id of the workspace.' };
