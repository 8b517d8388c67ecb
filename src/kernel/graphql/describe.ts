import SchemaBuilder, {
  BasePlugin,
  type PothosOutputFieldConfig,
  type PothosTypeConfig,
  type SchemaTypes,
} from '@pothos/core';

declare global {
  // Pothos is extended by merging into its own namespace.
  // oxlint-disable-next-line typescript/no-namespace
  export namespace PothosSchemaTypes {
    // oxlint-disable-next-line typescript/no-unused-vars
    interface Plugins<Types extends SchemaTypes> {
      describe: DescribePlugin<Types>;
    }
  }
}

/** The name of the plugin. */
export const describe = 'describe' as const;

/** Describes what plugins generate and what means the same everywhere; everything else describes itself. */
class DescribePlugin<Types extends SchemaTypes> extends BasePlugin<Types> {
  override onTypeConfig(type: PothosTypeConfig): PothosTypeConfig {
    return type.description ? type : { ...type, description: ofType(type.name, type.kind) };
  }

  override onOutputFieldConfig(field: PothosOutputFieldConfig<Types>): PothosOutputFieldConfig<Types> {
    const args = Object.fromEntries(
      Object.entries(field.args).map(([name, arg]) => [
        name,
        name === 'input' && !arg.description ? { ...arg, description: 'What to do it with.' } : arg,
      ]),
    );
    return { ...field, args, description: field.description ?? ofField(field.parentType, field.name) };
  }
}

function ofField(parent: string, name: string): string | undefined {
  if (name === 'id') return 'Global id.';
  if (name === 'totalCount' && parent.endsWith('Connection'))
    return 'How many there are in all, as far as you may see them.';
  return undefined;
}

function ofType(name: string, kind: PothosTypeConfig['kind']): string | undefined {
  const stem = (ending: string) => `\`${name.charAt(0).toLowerCase()}${name.slice(1, -ending.length)}\``;
  if (kind === 'Union' && name.endsWith('Result')) return `What ${stem('Result')} answers: success, or a typed error.`;
  if (kind === 'InputObject' && name.endsWith('Input')) return `What ${stem('Input')} takes.`;
  if (name.endsWith('ConnectionEdge')) return 'An item of a list with its cursor.';
  if (name.endsWith('Connection')) return 'A page of a list.';
  return undefined;
}

SchemaBuilder.registerPlugin(describe, DescribePlugin);
