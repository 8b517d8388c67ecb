import { cursorOf } from '#kernel/graphql/kit.ts';
import { isPerson, type Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { builder } from '#kernel/graphql/builder.ts';
import type { Appended } from '#kernel/db/transact.ts';
import type { DeletionPhase } from '../model.ts';
import type { Requested } from '../service/index.ts';

export interface Written {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended | null;
}

export const workspaceId = { description: 'Global id of the workspace.' };

/** What a verb answers that has nothing to tell but that it was done. */
export const done = (name: string, description: string) =>
  builder.objectRef<object>(name).implement({
    description,
    fields: (t) => ({ ok: t.boolean({ description: 'Always true.', resolve: () => true }) }),
  });

/** What a verb answers that began to delete something. */
export const deletionSuccess = (name: string, description: string, query: string) =>
  builder.objectRef<Requested>(name).implement({
    description,
    fields: (t) => ({
      receipt: t.exposeString('receipt', {
        description: `For the query \`${query}\`: how the removal goes. It is shown this once, and to repeats with the same idempotency key.`,
      }),
      eventCursor: t.string({
        nullable: true,
        description:
          'Cursor of the event that this wrote, in the log of the instance, which operators follow. Null for a repeat.',
        resolve: ({ event }) => cursorOf(instanceWorkspaceId, event),
      }),
    }),
  });

/** Whether the person themselves asks, and not a key that they made. */
export const isSelf = (user: { readonly id: string }, actor: Actor): boolean =>
  isPerson(actor) && actor.userId === user.id;

export const proof = {
  required: false,
  description: 'Your password. People who have none must have signed in within the last ten minutes instead.',
} as const;

const phaseDescriptions: Record<DeletionPhase, string> = {
  PENDING: 'It is closed; its deletion waits for a worker.',
  DELETING: 'What it has is being removed.',
  DELETED: 'It is gone; `report` tells of what was removed and what could not be. Final.',
  FAILED: 'It stays closed, and something kept it from being removed; an operator can retry it. Final.',
  CANCELED: 'It stays closed; an operator stopped its removal, and can retry it. Final.',
};

export const DeletionPhaseEnum = builder.enumType('DeletionPhase', {
  description: 'Where the deletion of a workspace or an account stands.',
  values: Object.fromEntries(
    Object.entries(phaseDescriptions).map(([phase, description]) => [phase, { description }]),
  ) as Record<DeletionPhase, { description: string }>,
});
