import type { ObjectRef } from '@pothos/core';
import type { Run } from '#prisma';
import { NotFound, Unauthenticated } from '../errors.ts';
import type { LoggedEvent } from '../events/define.ts';
import { builder } from '../graphql/builder.ts';
import type { Context } from '../graphql/context.ts';
import { decodeNodeId, rowId } from '../graphql/global-id.ts';
import { delegateOf, mayRead } from '../graphql/guard.ts';
import { visible } from '../graphql/kit.ts';
import { after, CheckpointRef, EventRef, GapRef, type Placed } from '../live/schema.ts';
import type { StreamItem } from '../live/items.ts';
import { eventsOfKind, runEvents, runOf } from '../live/streams.ts';
import type { RegisteredKind } from './kinds.ts';
import { RunRef } from './schema.ts';

type Types = typeof builder extends PothosSchemaTypes.SchemaBuilder<infer T> ? T : never;

const lowerFirst = (name: string): string => name.charAt(0).toLowerCase() + name.slice(1);

/**
 * Declares the subscription `<kind>Updated(of, after)`: runs of a kind as they change, an item for each of their events,
 * of a workspace, of one run, or of a thing that runs of the kind are about.
 * @param options.ref the GraphQL type of the kind
 * @param options.of what else it can be followed by: GraphQL type, which is a model with a workspace and a row rule, and
 *   the name of its id in the kind's `about`
 */
export function runUpdates(options: {
  readonly kind: RegisteredKind;
  readonly ref: ObjectRef<Types, Run>;
  readonly of?: Readonly<Record<string, string>>;
}): void {
  const { kind, ref, of = {} } = options;
  const { name } = kind;
  const field = lowerFirst(name);
  const what = ['a workspace', ...Object.keys(of).map((type) => `a thing of type ${type}`), `one ${name}`];

  const Update = builder.objectRef<Placed<LoggedEvent>>(`${name}Update`).implement({
    description: `An event of a ${name}, with the ${name} as it is now.`,
    fields: (t) => ({
      cursor: t.exposeString('cursor', {
        description: "Resume after this: everything up to and including it was told. A place in the workspace's log.",
      }),
      event: t.field({ type: EventRef, description: 'What happened.', resolve: (placed) => placed }),
      [field]: t.prismaField({
        type: ref as unknown as typeof RunRef,
        nullable: true,
        description: 'It, at least as new as the event; null when it was removed since.',
        compiled: { one: 'Run', idOf: ({ entry }: Placed<LoggedEvent>) => runOf(entry, name) },
        resolve: async (query, { entry }, _, context) => {
          const run = await context.app.db.run.findUnique({ ...query, where: { id: runOf(entry, name) ?? '' } });
          return run && (await mayRead(context, 'Run', run)) ? run : null;
        },
      }),
    }),
  });

  const Item = builder.unionType(`${name}StreamItem`, {
    description: `What \`${field}Updated\` sends.`,
    types: [Update, CheckpointRef, GapRef],
    resolveType: (item) =>
      ({ entry: `${name}Update`, checkpoint: 'StreamCheckpoint', gap: 'StreamGap' })[
        (item as StreamItem<unknown>).kind
      ],
  });

  builder.subscriptionField(`${field}Updated`, (t) =>
    t.field({
      access: 'member',
      type: Item,
      description: `Each ${name} of what is followed, as it changes: an item for each event of it, in order of commit, none left out, none twice. Of one ${name} it ends when that does.`,
      args: {
        of: t.arg.id({ description: `Global id of what is followed: ${what.join(', ')}.` }),
        after: t.arg.string(
          after(
            `Without it the stream begins now, and a StreamCheckpoint tells where that is; of one ${name} it begins with its first event.`,
          ),
        ),
      },
      subscribe: async (_, args, context) => {
        const { typename } = decodeNodeId(args.of);
        if (typename === name) return runEvents(context, rowId(name, args.of), args.after, name);
        const about = of[typename];
        if (about === undefined) {
          const workspaceId = rowId('Workspace', args.of);
          return eventsOfKind(context, { kind: name, workspaceId, after: args.after, about: null });
        }
        const id = rowId(typename, args.of);
        const workspaceId = await workspaceOf(context, typename, id, args.of);
        return eventsOfKind(context, { kind: name, workspaceId, after: args.after, about: { name: about, id } });
      },
      resolve: (item) => item as never,
    }),
  );
}

/** @throws {Unauthenticated} {NotFound} also for what the actor may not see */
async function workspaceOf(context: Context, model: string, id: string, given: string): Promise<string> {
  if (context.actor.kind === 'ANONYMOUS') throw new Unauthenticated();
  const [row] = await delegateOf(context, model).findMany({
    where: visible(context, model, { id }),
    select: { id: true, workspaceId: true },
  });
  if (!row) throw new NotFound(model, given);
  return (row as { id: string; workspaceId: string }).workspaceId;
}
