import SchemaBuilder, { BasePlugin, type PothosOutputFieldConfig, type SchemaTypes } from '@pothos/core';
import type { GraphQLFieldResolver } from 'graphql';
import { Denials } from '../audit/denials.ts';
import type { Context } from './context.ts';

declare global {
  // Pothos is extended by merging into its own namespace.
  // oxlint-disable-next-line typescript/no-namespace
  export namespace PothosSchemaTypes {
    interface Plugins<Types extends SchemaTypes> {
      audited: AuditedPlugin<Types>;
    }
  }
}

/** The name of the plugin. */
export const audited = 'audited' as const;

type Resolver<Types extends SchemaTypes> = GraphQLFieldResolver<unknown, Types['Context'], object>;

/** Tells the audit log of root fields that were refused. */
class AuditedPlugin<Types extends SchemaTypes> extends BasePlugin<Types> {
  override wrapResolve(resolver: Resolver<Types>, field: PothosOutputFieldConfig<Types>): Resolver<Types> {
    return field.kind === 'Mutation' || field.kind === 'Query' ? telling(resolver) : resolver;
  }

  override wrapSubscribe(
    subscriber: Resolver<Types> | undefined,
    field: PothosOutputFieldConfig<Types>,
  ): Resolver<Types> | undefined {
    return subscriber && field.kind === 'Subscription' ? telling(subscriber) : subscriber;
  }
}

const telling =
  <Types extends SchemaTypes>(resolver: Resolver<Types>): Resolver<Types> =>
  async (parent, args, context, info) => {
    const { app, actor } = context as unknown as Context;
    try {
      return await resolver(parent, args, context, info);
    } catch (error) {
      app.use(Denials).caught(actor, error);
      throw error;
    }
  };

SchemaBuilder.registerPlugin(audited, AuditedPlugin);
