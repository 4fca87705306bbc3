"""The bus: carries messages over NATS and turns failures into `BusError`; it never decides."""
