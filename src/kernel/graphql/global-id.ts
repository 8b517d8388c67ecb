import { decodeGlobalID, encodeGlobalID } from '@pothos/plugin-relay';
import { NotFound } from '../errors.ts';
import { isId } from '../ids.ts';
import { knowsRunKind } from '../runs/kinds.ts';

/** A client's id: type and row id, opaque. @see https://relay.dev/graphql/objectidentification.htm */
export const globalId = (type: string, id: string): string => encodeGlobalID(type, id);

/**
 * The row id of a client's id that must be of this type; `Run` stands for every kind of run.
 * @throws {NotFound} for anything else: there is no such thing of this type
 */
export function rowId(type: string, id: string): string {
  const decoded = decode(id);
  const fits = decoded && (decoded.typename === type || (type === 'Run' && knowsRunKind(decoded.typename)));
  if (!fits || !isId(decoded.id)) throw new NotFound(type, id);
  return decoded.id;
}

/** The row id of a client's id of any type. @throws {NotFound} */
export function anyRowId(id: string): string {
  const decoded = decode(id);
  if (!decoded || !isId(decoded.id)) throw new NotFound('Node', id);
  return decoded.id;
}

/** For `node` and `nodes`: what is no id of ours names a type and a row that do not exist. */
export const decodeNodeId = (id: string): Readonly<{ typename: string; id: string }> =>
  decode(id) ?? { typename: '', id: '' };

/** The last one: an id is asked for its type, and then for its row. */
let last: { readonly of: string; readonly decoded: Readonly<{ typename: string; id: string }> | null } | null = null;

function decode(id: string): Readonly<{ typename: string; id: string }> | null {
  if (id.length > 200) return null;
  if (last?.of === id) return last.decoded;
  let decoded: { typename: string; id: string } | null;
  try {
    decoded = decodeGlobalID(id);
  } catch {
    decoded = null; // not one of ours
  }
  last = { of: id, decoded };
  return decoded;
}
