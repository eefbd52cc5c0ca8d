//! Walks over a module's parameters that several files need.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};

/// Calls `visit` with the path and rank of each float parameter, running statistics included.
pub fn for_each_path<M: Module>(module: &M, visit: impl FnMut(&str, usize)) {
    struct Paths<F> {
        path: Vec<String>,
        visit: F,
    }

    impl<F: FnMut(&str, usize)> ModuleVisitor for Paths<F> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.into());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
            (self.visit)(&self.path.join("."), D);
        }
    }

    module.visit(&mut Paths { path: Vec::new(), visit });
}

/// Reads each float parameter; the tensors come without autodiff.
pub trait ReadParams {
    /// Called in the module's order.
    fn read<const D: usize>(&mut self, id: burn::module::ParamId, value: Tensor<D>);
}

/// Shows every float parameter of `module` to `reader`.
pub fn read_params<M: Module, R: ReadParams>(module: &M, reader: &mut R) {
    struct Reader<'a, R>(&'a mut R);

    impl<R: ReadParams> ModuleVisitor for Reader<'_, R> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.read(param.id, param.val().without_autodiff());
        }
    }

    module.visit(&mut Reader(reader));
}

/// Replaces each parameter of `module` for which `values` has one of the same id.
pub fn replace_params<M: Module>(module: M, values: &GradientsParams) -> M {
    struct Replace<'a>(&'a GradientsParams);

    impl ModuleMapper for Replace<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.0.get::<D>(param.id) {
                Some(value) => param.map(|_| value),
                None => param,
            }
        }
    }

    module.map(&mut Replace(values))
}
